"Disks, checkpoints, numbers and memory that fail."
import subprocess
from pathlib import Path
import pytest
import torch

OPTIONS = ("--task NumberLine --task_options.max_turns 8 --updates 2 --rollout.envs 4 --steps 2 --optim.minibatch 8 "
           "--sampling.max_new_tokens 8 --run.eval_every 2 --run.save_every 1".split())


def test_a_full_disk_while_logging(tmp_path):
    "/dev/full is a disk that is always full."
    from rl4vlm.cli import disk_trouble
    from rl4vlm.files import JsonLines
    with pytest.raises(OSError) as error: JsonLines("/dev/full").append(dict(step=1))
    assert "the disk is full" in disk_trouble(error.value)


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 8 MB; needs the right to mount."
    disk = tmp_path/"disk"; disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_while_saving(rl4vlm, blind_model, small_disk):
    "The run ends with one line; after room has been made it resumes from the last whole checkpoint."
    out = small_disk/"run"
    done = rl4vlm("ppo", *OPTIONS, "--updates", "6", "--model", blind_model, "--out", out, code=1)
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    rl4vlm("ppo", *OPTIONS, "--updates", "6", "--model", blind_model, "--out", out, "--resume", "true", code=0)


def test_a_folder_that_may_not_be_written(rl4vlm, blind_model):
    done = rl4vlm("ppo", *OPTIONS, "--model", blind_model, "--out", "/proc/run", code=None)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("file",
                         ["optimizer.pt", "model.safetensors",
                          *(pytest.param(f, marks=pytest.mark.full) for f in ("heads.safetensors", "state.json"))])
def test_a_damaged_checkpoint_is_passed_over(rl4vlm, blind_model, tmp_path, file):
    run = tmp_path/"run"
    rl4vlm("ppo", *OPTIONS, "--updates", "2", "--model", blind_model, "--out", run)
    whole = (run/"metrics.jsonl").read_bytes()
    damaged = run/"ppo"/"checkpoints"/"step_2"/file
    damaged.write_bytes(damaged.read_bytes()[:damaged.stat().st_size // 2])
    done = rl4vlm("ppo", *OPTIONS, "--updates", "2", "--model", blind_model, "--out", run, "--resume", "true")
    assert "step_2 cannot be read" in done.stderr and "going back to the one before" in done.stderr
    assert (run/"metrics.jsonl").read_bytes() == whole


@pytest.fixture
def learner(blind_model, tmp_path):
    from rl4vlm.config import PPOConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.ppo import PPO
    ppo = PPO("NumberLine", VLMPolicy.load(str(blind_model)), PPOConfig(rollout=dict(envs=4, steps=2),
                                                                        optim=dict(minibatch=8),
                                                                        sampling=dict(max_new_tokens=8)), tmp_path)
    yield ppo
    ppo.player.close()


def poison(learner, what):
    "Put one NaN into a rollout."
    played = learner.play
    def poisoned():
        segments = played()
        turn = segments[0][0]
        if what == "reward": turn.reward = float("nan")
        if what == "log_probs": turn.response.logprobs = turn.logprobs * float("nan")
        if what == "value": turn.response.value = float("nan")
        return segments
    learner.play = poisoned


@pytest.mark.parametrize("what,named", [("reward", "rewards has 1 values that are not finite"),
                                        ("log_probs", "log_probs has"), ("value", "advantages has")])
def test_nan_in_a_rollout_stops_with_the_batch_saved(learner, what, named):
    from safetensors.torch import load_file
    from rl4vlm.core import InvariantError
    poison(learner, what)
    before = [p.detach().clone() for p in learner.policy.parameters()]
    with pytest.raises(InvariantError, match=named) as error: learner.run_update()
    path = Path(str(error.value).split("the batch is in ")[1])
    assert "response_ids" in load_file(path)
    assert all((a == b).all() for a, b in zip(before, learner.policy.parameters()))


def test_nan_in_a_gradient_stops_before_the_step(learner):
    from rl4vlm.core import InvariantError
    weight = next(p for p in learner.policy.model.parameters() if p.requires_grad)
    weight.register_hook(lambda g: g * float("nan"))
    before = [p.detach().clone() for p in learner.policy.parameters()]
    with pytest.raises(InvariantError, match="gradients has 1 values that are not finite"): learner.run_update()
    assert all((a == b).all() for a, b in zip(before, learner.policy.parameters()))


def test_no_memory_in_an_update(learner):
    from rl4vlm.core import RL4VLMError
    def hungry(*args, **kwargs): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    learner.loss = hungry
    with pytest.raises(RL4VLMError, match=r"out of memory in update 1: raise --optim.microbatches \(now 1\)"):
        learner.run_update()


def test_no_memory_in_a_rollout(learner):
    from rl4vlm.core import RL4VLMError
    def hungry(*args, **kwargs): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    learner.policy.prefill = hungry
    with pytest.raises(RL4VLMError, match=r"out of memory in the rollout of update 1: lower --rollout.envs \(now 4\)"):
        learner.run_update()
