"""Kill a run at any moment and resume it: metrics and weights are those of the run that was not killed, bit for bit.

Three moments in the default run, twenty in --full, with one process and with two.
"""
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
import pytest
from processes import finish, kill, start
from safetensors.numpy import load_file

OPTIONS = ("--task NumberLine --task_options.max_turns 8 --updates 4 --rollout.envs 4 --steps 2 --optim.minibatch 8 "
           "--sampling.max_new_tokens 8 --run.eval_every 2 --run.save_every 1 --seed 3".split())


def command(model, out, processes, *more):
    launch = (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1
              else [])
    return [sys.executable, *launch, "-m", "rl4vlm.cli", "ppo", "--model", str(model), "--out", str(out), *OPTIONS,
            *more]


def result(run):
    "What must be equal: the metrics' bytes, the weights of the last checkpoint and of the best."
    tensors = {f"{p.parent.name}/{p.name}/{k}": v for p in sorted(run.glob("ppo/checkpoints/step_4/*.safetensors"))
               + sorted(run.glob("ppo/best/*.safetensors")) for k, v in load_file(p).items()}
    return (run/"metrics.jsonl").read_bytes(), tensors


def assert_equal(run, whole):
    (metrics, tensors), (metrics_, tensors_) = result(run), result(whole)
    assert metrics == metrics_
    assert tensors.keys() == tensors_.keys() and tensors
    for name in tensors: assert (tensors[name] == tensors_[name]).all(), name


@pytest.fixture(scope="module")
def whole(blind_model, tmp_path_factory):
    "{processes: (run folder, seconds, seconds until the first line of metrics)} of runs that nobody disturbed."
    made = {}
    def make(processes):
        if processes not in made:
            out, begun, first = tmp_path_factory.mktemp("whole")/"run", time.time(), None
            process = start(command(blind_model, out, processes))
            while process.poll() is None:
                if first is None and (out/"metrics.jsonl").exists(): first = time.time() - begun
                time.sleep(0.05)
            assert process.returncode == 0, process.communicate()[0][-4000:]
            made[processes] = out, time.time() - begun, first
        return made[processes]
    return make


def killed_and_resumed(blind_model, whole, folder, processes, moment):
    "Kill at a moment (0 is the first line of metrics, 1 the end), resume, compare."
    run, seconds, first = whole(processes)
    again, _begun = folder/"again", time.time()
    process = start(command(blind_model, again, processes))
    while process.poll() is None and not (again/"metrics.jsonl").exists(): time.sleep(0.02)
    time.sleep(moment * (seconds - first))
    kill(process)
    finish(command(blind_model, again, processes, "--resume", "true"))
    assert_equal(again, run)
    shutil.rmtree(again)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.slow
def test_killed_anywhere(blind_model, whole, tmp_path, number):
    killed_and_resumed(blind_model, whole, tmp_path, 1, random.Random(number).random())


@pytest.mark.slow
def test_two_processes_killed(blind_model, whole, tmp_path):
    killed_and_resumed(blind_model, whole, tmp_path, 2, 0.4)


@pytest.mark.full
@pytest.mark.parametrize("number", range(3, 20))
def test_killed_at_many_moments(blind_model, whole, tmp_path, number):
    killed_and_resumed(blind_model, whole, tmp_path, 1 + number % 2, random.Random(number).random())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop(blind_model, whole, tmp_path, number):
    "The first signal: a checkpoint at the next safe point and exit code 75; resumed, nothing is lost."
    run, out = whole(1)[0], tmp_path/"run"
    process = start(command(blind_model, out, 1))
    while process.poll() is None and not (out/"metrics.jsonl").exists(): time.sleep(0.02)
    os.kill(process.pid, number)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 75 and "checkpoint written" in output and (out/"requeue").exists(), output[-2000:]
    finish(command(blind_model, out, 1, "--resume", "true"))
    assert not (out/"requeue").exists()
    assert_equal(out, run)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(blind_model, tmp_path):
    process = start([*command(blind_model, tmp_path/"run", 1), "--steps", "500"])
    while process.poll() is None and not (tmp_path/"run"/"metrics.jsonl").exists(): time.sleep(0.02)
    for _ in range(2): os.kill(process.pid, signal.SIGTERM); time.sleep(2.5)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job(blind_model, tmp_path):
    "With its error code and within a time limit; nothing is left running."
    process = start([*command(blind_model, tmp_path/"run", 2), "--updates", "500"])
    while process.poll() is None and not (tmp_path/"run"/"metrics.jsonl").exists(): time.sleep(0.05)
    ranks = [p for p in Path("/proc").iterdir() if p.name.isdigit() and str(tmp_path/"run") in _text(p/"cmdline")
             and "torch.distributed.run" not in _text(p/"cmdline")]
    victim = next(p for p in ranks if "RANK=1" in _text(p/"environ").split("\0"))
    os.kill(int(victim.name), signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "SIGKILL" in output, output[-3000:]
    assert not any(p.exists() and "Z" not in _text(p/"stat").split(")")[-1][:3] for p in ranks)


def _text(path):
    try: return path.read_text(errors="replace")
    except OSError: return ""


@pytest.mark.slow
def test_another_number_of_processes_is_refused(blind_model, whole, tmp_path):
    run = tmp_path/"run"
    shutil.copytree(whole(1)[0], run)
    shutil.rmtree(run/"ppo"/"checkpoints"/"step_4")
    output = finish(command(blind_model, run, 2, "--resume", "true"), code=1)
    assert "was written by 1 processes and cannot be resumed by 2" in output
