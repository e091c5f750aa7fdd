"""SFT, PPO and RLOO with two processes (DDP, ZeRO-2, ZeRO-3) give the losses and weights of one, on CPU by gloo.

`envs`, `minibatch` and `batch_size` are totals, so the same command runs with one process and with two. PPO's
minibatches are drawn within each rank; here a minibatch is all turns, so that both see the same ones. Two updates: the
second shows what the step of the first did. After more, rounding may let another token be drawn.
"""
import json
import os
import subprocess
import sys
from pathlib import Path
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
RL = ("--task NumberLine --task_options.max_turns 8 --updates 2 --rollout.envs 8 "
      "--steps 4 --optim.minibatch 512 --sampling.max_new_tokens 8 --run.eval_every 2 --run.save_every 1 "
      "--optim.value_warmup 0 --kl.max 0 --seed 5".split())
STAGES = dict(
    sft="sft --task NumberLine --steps 10 --optim.batch_size 4 --optim.accumulate 2 --run.save_every 10".split(),
    ppo=["ppo", *RL],
    rloo=["ppo", *RL, "--advantage.estimator", "rloo", "--advantage.group_size", "4", "--kl.coef", "0.05"],
    whitened=["ppo", *RL, *"--advantage.estimator reinforce++ --advantage.group_size 4 --loss.ratio sequence "
              "--loss.clip 3e-4".split()],
    drgrpo=["ppo", *RL, *"--advantage.estimator drgrpo --advantage.group_size 4 --loss.objective cispo "
            "--optim.microbatches 2".split()],
    bilevel=["ppo", *RL, "--advantage.estimator", "bilevel", "--advantage.answer_lambda", "0.9"],
    trl="trl-rloo --task PickImage --steps 2 --prompts 4 --group_size 2 --optim.microbatches 2 "
        "--sampling.max_new_tokens 8".split())
DDP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
def accelerate(file):
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT/"scripts"/"accelerate"/file)]
MODES = dict(one=[sys.executable], ddp=DDP, zero2=accelerate("zero2.yaml"), zero3=accelerate("zero3.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for command in ("collect --task NumberLine --episodes 20",
                    f"preprocess --data {folder}/data/episodes --validation_share 0.2"):
        subprocess.run([sys.executable, "-m", "rl4vlm.cli", *command.split(), "--out", str(folder)], check=True,
                       capture_output=True)
    return folder/"data"


@pytest.fixture(scope="module")
def launch(blind_model, data, tmp_path_factory):
    "launch(stage, mode) -> run folder; each is run once."
    done = {}
    def run(stage, mode, *more):
        if (stage, mode) not in done:
            out = tmp_path_factory.mktemp(f"{stage}_{mode}")/"run"
            extra = ["--data", str(data)] if stage == "sft" else []
            p = subprocess.run([*MODES[mode], "-m", "rl4vlm.cli", *STAGES[stage],
                                "--model", str(blind_model), "--out", str(out), *extra, *more],
                               capture_output=True, text=True, timeout=900)
            assert p.returncode == 0, (p.stdout + p.stderr)[-6000:]
            assert "built successfully" not in p.stdout, p.stdout          # minutes of compiling, on CPU for nothing
            done[stage, mode] = out
        return done[stage, mode]
    return run


def rows(run):
    file = next(p for p in (run/"metrics.jsonl", run/"sft"/"metrics.jsonl") if p.exists())
    return [json.loads(line) for line in file.read_text().splitlines()]
def weights(run):
    files = run/"sft"/"model.safetensors", run/"ppo"/"checkpoints"/"step_2"/"model.safetensors"
    return load_file(next(p for p in files if p.exists()))


QUICKLY = (("ppo", "ddp"), ("sft", "zero2"))
CASES = [pytest.param(stage, mode, marks=[] if (stage, mode) in QUICKLY else pytest.mark.full)
         for stage in ("sft", "ppo", "rloo") for mode in ("ddp", "zero2", "zero3")]
CASES += [pytest.param(stage, "ddp", marks=pytest.mark.full) for stage in ("whitened", "drgrpo", "bilevel")]

@pytest.mark.slow
@pytest.mark.parametrize("stage,mode", CASES)
def test_two_processes_are_one(launch, blind_model, stage, mode):
    one, two = launch(stage, "one"), launch(stage, mode)
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a.keys() - {"signal_share"} == b.keys() - {"signal_share"}   # DeepSpeed's gradients are not looked at
        # each process looks at its own turns, and has its own padding
        own = {"signal_share", "mutual_information", "distinct_thoughts", "thought_tokens", "update_tokens"}
        for k in a.keys() - own:
            if isinstance(a[k], float):
                # a token more or less beyond the clip
                assert b[k] == pytest.approx(a[k], rel=2e-3,
                                             abs=2e-3 if k == "clip_fraction" else 2e-5), (k, a[k], b[k])
            else: assert a[k] == b[k], k
    start, first, second = load_file(blind_model/"model.safetensors"), weights(one), weights(two)
    for name, w in first.items():
        # Adam turns rounding of a gradient near zero into a step of any size up to the learning rate
        gap, way = abs(w - second[name]).mean(), abs(w - start[name]).mean()
        assert gap <= 0.02 * way, (name, gap, way)


@pytest.mark.slow
def test_signals_are_measured_between_updates_of_two_processes(blind_model, tmp_path):
    "Their gradients are nobody's step: DDP, which has learned from several minibatches, must not take them for one."
    done = subprocess.run([*DDP, "-m", "rl4vlm.cli", *(
        "ppo --task NumberLine --updates 2 --rollout.envs 4 --rollout.steps 3 --optim.minibatch 6 "
        "--optim.value_warmup 0 --sampling.max_new_tokens 6 --run.eval_every 2 --run.panel val-50 "
        f"--model {blind_model} --out {tmp_path}/run"
    ).split()], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert isinstance(rows(tmp_path/"run")[2]["signal_share"], float)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", pytest.param("zero2", marks=pytest.mark.full), "zero3"])
def test_trl_on_two_processes(launch, blind_model, mode):
    "TRL deals its prompts out otherwise than one process would; what is written must be whole."
    run = launch("trl", mode)
    assert [r["step"] for r in rows(run)] == [1, 2]
    from rl4vlm.models import load_vlm
    start, end = (dict(load_vlm(str(folder))[0].named_parameters()) for folder in (blind_model, run/"rloo"))
    # two small steps away
    assert start.keys() == end.keys() and all(abs(start[k] - end[k]).max() < 1e-2 for k in start)


@pytest.mark.slow
def test_a_launch_that_is_not_connected_is_refused(blind_model, tmp_path):
    "A world size in the environment and nobody there to connect to would be two separate trainings."
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": "29611"}
    code = "from rl4vlm.distributed import Ranks; Ranks(minutes=0.05)"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=env)
    assert p.returncode != 0


def test_what_cannot_be_shared_is_refused_before_a_model_is_loaded(monkeypatch):
    from rl4vlm.commands import run_ppo, run_sft
    from rl4vlm.config import PPOConfig, SFTConfig
    from rl4vlm.core import UsageError
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="batch_size=5 cannot be shared by 2 processes"):
        run_sft(SFTConfig(optim=dict(batch_size=5), model="/nowhere", data="/nowhere"))
    with pytest.raises(UsageError, match="envs=3 cannot be shared by 2 processes"):
        run_ppo(PPOConfig(rollout=dict(envs=3), model="/nowhere"))


ENDS = """
import atexit, sys, torch
from pathlib import Path
folder, how = Path(sys.argv[1]), sys.argv[2]
def note(): (folder/str(ranks.index)).write_text(str(torch.distributed.is_initialized()))
atexit.register(note)   # runs after what rl4vlm registers
from rl4vlm.distributed import Ranks
ranks = Ranks()
assert ranks.gather(ranks.index) == [0, 1]
if how == "fails": raise ValueError("on purpose")
if how == "command fails":
    from rl4vlm.cli import main
    sys.exit(main(["ppo", "--model", "/nowhere", "--task", "NumberLine"]))
"""

@pytest.mark.parametrize("how", ["ends well", "fails", "command fails"])
def test_the_connection_is_closed_at_the_end(tmp_path, how):
    "An open one can abort a process whose work is done; after an error, closing could wait for ever."
    (tmp_path/"script.py").write_text(ENDS)
    p = subprocess.run([*DDP, str(tmp_path/"script.py"), str(tmp_path), how], capture_output=True, text=True,
                       timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""})
    assert (p.returncode == 0) == (how == "ends well"), p.stderr[-3000:]
    # the launcher may kill the second to fail
    written = {(tmp_path/rank).read_text() for rank in "01" if (tmp_path/rank).exists()} - {""}
    assert written == {str(how != "ends well")}, p.stderr[-3000:]


SLOW = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
// how a background thread says that a tensor has been sent
extern "C" int pthread_cond_broadcast(pthread_cond_t *c) {
    static auto real = (int (*)(pthread_cond_t *)) dlsym(RTLD_NEXT, "pthread_cond_broadcast");
    int result = real(c);
    // the main thread goes on, this one only after a while
    if (getenv("SLOW_MS") && syscall(SYS_gettid) != getpid()) {
        timespec a, b; clock_gettime(CLOCK_MONOTONIC, &a);
        do clock_gettime(CLOCK_MONOTONIC, &b);
        while ((b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6 < atof(getenv("SLOW_MS")));
    }
    return result;
}
"""
ABORTS = """
import os, torch
from rl4vlm.distributed import Learner, Ranks
ranks, model = Ranks(), torch.nn.Linear(3, 1)
# alive to the end, and its connection with it
learner = Learner(ranks, model, torch.optim.SGD(model.parameters(), lr=0.1), 1.0)
learner.backward(learner(torch.ones(2, 3)).sum()); learner.step()
os.environ["SLOW_MS"] = "5"
ranks.gather(ranks.index)
"""

@pytest.mark.skipif(sys.platform != "linux", reason="slows the threads down by Linux's LD_PRELOAD")
def test_a_slow_background_thread_aborts_nothing(tmp_path):
    "Without `close_process_group`, most launches end with 'terminate called without an active exception'."
    (tmp_path/"slow.cpp").write_text(SLOW); (tmp_path/"script.py").write_text(ABORTS)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", tmp_path/"slow.so", tmp_path/"slow.cpp", "-ldl"], check=True)
    for _ in range(3):
        p = subprocess.run([*DDP, str(tmp_path/"script.py")], capture_output=True, text=True, timeout=200,
                           env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "",
                                "LD_PRELOAD": str(tmp_path/"slow.so")})
        assert p.returncode == 0, p.stderr[-3000:]
