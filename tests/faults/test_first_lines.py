"The first line comes at once, and no work is silent."
import io
import os
import subprocess
import sys
import time
import pytest
from rl4vlm.core import Heartbeat, set_status

def first_line(*arguments, cwd):
    "Seconds of processor time until a command prints its first line: beside other work the clock says little."
    code = ("import os, sys, time, rl4vlm.cli as c; w = sys.stdout.write\n"
            "def write(text):\n"
            "    if text.strip(): os.write(1, f'{time.process_time()} {text}'.encode()); os._exit(0)\n"
            "    return len(text)\n"
            "sys.stdout.write = write\nc.main(sys.argv[1:])")
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return float(done.stdout.split()[0])


@pytest.mark.parametrize("arguments",
                         [["tasks"], ["doctor"], ["collect"], ["sft", "--captions"], ["ppo"], ["eval"], ["trl-rloo"],
                          ["quickstart"], ["pipeline"], ["report", "x"], ["merge", "--model", "x", "--out", "y"],
                          ["preprocess"], ["alfworld", "generate", "g"],
                          ["ppo", "--dry-run", "--model", "Qwen/Qwen2.5-VL-3B-Instruct"]])
def test_the_first_line_comes_before_anything_slow(arguments, tmp_path):
    assert first_line(*arguments, cwd=tmp_path) < 1.5     # importing torch alone takes longer


def test_silent_work_is_told():
    out = io.StringIO()
    Heartbeat.quiet = True   # a command before this one served a report, or showed a progress bar
    began = time.monotonic()
    with Heartbeat(every=0.1, file=out):
        set_status("compiling")
        while out.getvalue().count("\n") < 3 and time.monotonic() < began + 20: time.sleep(0.02)
        most = (time.monotonic() - began) / 0.1
    time.sleep(0.3)
    said = out.getvalue().splitlines()
    assert 3 <= len(said) <= max(most, 4) and all("compiling" in line for line in said)
    time.sleep(0.3)
    assert len(out.getvalue().splitlines()) == len(said)     # it ends


def test_a_model_that_was_looked_at_is_not_what_takes_long(blind_model):
    "A large model plays and learns for minutes before a first number, and each of them said that it was looked at."
    from rl4vlm.commands import check_names
    from rl4vlm.config import EvalConfig
    set_status("eval")
    check_names(EvalConfig(model=str(blind_model)))
    assert Heartbeat.what == "eval"


def test_the_list_of_tasks_is_right_about_what_it_knows():
    from importlib.metadata import entry_points
    from rl4vlm.evaluate import evaluate
    from rl4vlm.labellers import make_actor
    from rl4vlm.statistics import wilson
    from rl4vlm.task_list import known_rates
    from rl4vlm.tasks import make_task
    # not what other tests have registered
    ours = [e.name for e in entry_points(group="rl4vlm.tasks") if e.value.startswith("rl4vlm.")]
    known = {name: known_rates(make_task(name), {}) for name in ours}
    foreign = {n for n in known if not type(make_task(n)).__module__.startswith("rl4vlm.")}
    assert {n for n, rates in known.items() if not rates} <= {"AlfThor", "OpenEnv"} | foreign
    for name in ("NumberLine", "Blackjack", "PickImage", "MiniGrid", "MiniGridEmpty", "MiniGridDoorKey5"):
        task = make_task(name)
        for who, rate in known[name].items():
            row = evaluate(task, make_actor(who, task, 0.0), range(50_000, 50_060), envs=8, keep_images=0)[0]
            low, high = wilson(round(row["success"] * 60), 60, z=3.3)
            assert low - 1e-9 <= rate <= high + 1e-9, (f"{name}: {who} is said to succeed in {rate:.1%}, "
                                                       f"and did in {row['success']:.1%}")
    assert known_rates(make_task("NumberLine", max_turns=1), dict(max_turns=1)) == {}     # other options, other rates


def test_threads_of_a_small_model_and_of_workers(blind_model):
    code = ("import rl4vlm, os, sys; from rl4vlm.models import load_vlm; import torch; load_vlm(sys.argv[1]); "
            "print(os.environ.get('OMP_WAIT_POLICY'), torch.get_num_threads())")
    def said(**environment):
        bare = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
        return subprocess.run([sys.executable, "-c", code, str(blind_model)], env={**bare, **environment},
                              capture_output=True, text=True, check=True).stdout.split()
    assert said() == ["passive", "1"]
    assert said(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="active") == ["active", "2"]
