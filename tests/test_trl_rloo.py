"RLOO by TRL: the stream of episodes, the reward, a short run as a user types it, and runs that learn."
import json
import os
from pathlib import Path
import numpy as np
import pytest
import yaml
from rl4vlm.tasks import make_task
from rl4vlm.trl_rloo import Reward, episode_stream

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--steps", 2, "--prompts", 2, "--group_size", 2, "--sampling.max_new_tokens", 8]
says = lambda text: [dict(role="assistant", content=text)]


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    "An untrained tiny checkpoint whose tokenizer knows PickImage."
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    task = make_task("PickImage")
    return build_tiny(tmp_path_factory.mktemp("blind"), texts=frame_texts(task, sample_frames(task, 20)))


def test_the_stream_is_endless_and_repeats():
    task = make_task("PickImage", correct_index=None)
    seeds = lambda n, seed=0: [e["seed"] for e in episode_stream(task, seed).take(n)]
    assert seeds(40) == seeds(60)[:40] and len(set(seeds(60))) == 60 and not set(seeds(40, 1)) & set(seeds(40))
    a, b = next(iter(episode_stream(task, 3))), next(iter(episode_stream(task, 3)))
    assert a["prompt"] == b["prompt"]
    assert [np.asarray(i).tolist() for i in a["images"]] == [np.asarray(i).tolist() for i in b["images"]]
    assert sum(p["type"] == "image" for p in a["prompt"][0]["content"]) == len(a["images"]) == 4


def test_what_an_answer_is_worth():
    task, reward = make_task("PickImage", correct_index=1), Reward(make_task("PickImage", correct_index=1))
    answers = [task.answer("1", {}), task.answer("0", {}), "image 1", '{"name": "pick", "arguments": {"index": 1}}',
               f"Well. {task.answer('1', {})}"]
    assert reward([says(a) for a in answers], [[None]] * 5, [5] * 5) == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert reward.take_causes() == {None: 3, "no_json": 1, "wrong_tool": 1} and not reward.take_causes()


def test_a_task_of_several_turns_is_refused(rl4vlm, tmp_path):
    [line] = rl4vlm("trl-rloo", "--task", "NumberLine", code=2).stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "rl4vlm ppo --advantage.estimator rloo" in line and not (tmp_path/"runs").exists()


def test_without_the_extra(rl4vlm, tmp_path):
    (tmp_path/"trl").mkdir(); (tmp_path/"trl/__init__.py").write_text("raise ImportError('No module named trl')")
    done = rl4vlm("trl-rloo", "--task", "PickImage", code=2,
                  PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "pip install -e '.[trl]'" in line and not (tmp_path/"runs").exists()


@pytest.mark.parametrize("arguments, says",
                         [(["--group_size", 1], "at least 2"), (["--optim.microbatches", 3], "must divide"),
                          (["--optim.lr", 0], "above 0"), (["--steps", 0], "at least 1"),
                          (["--model", "./nowhere"], "does not exist"), (["--num_rollouts", 4], "--num_rollouts")])
def test_wrong_options_get_one_clear_line(rl4vlm, arguments, says):
    [line] = rl4vlm("trl-rloo", *arguments, code=2).stderr.strip().splitlines()
    assert line.startswith("error: ") and says in line


def test_a_short_run_repeats_and_can_be_played(rl4vlm, tmp_path, blind):
    for name in "ab":
        done = rl4vlm("trl-rloo", "--task", "PickImage", "--model", blind, "--out", name, *SHORT,
                      "--optim.microbatches", 2)
    rows = [json.loads(line) for line in (tmp_path/"a/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2]
    assert all(0 <= r["reward"] <= 1 and r["response_tokens"] <= 8
               and r["failed_parses"] == sum(r["causes"].values()) / 4 for r in rows)
    assert (tmp_path/"a/metrics.jsonl").read_text() == (tmp_path/"b/metrics.jsonl").read_text()
    assert yaml.safe_load((tmp_path/"a/config.yaml").read_text())["group_size"] == 2 and "a/rloo" not in done.stdout
    assert "| model |" in rl4vlm("eval", "--task", "PickImage", "--model", "a/rloo", "--panel", "val-50",
                                 "--sampling.max_new_tokens", 8, "--out", "c").stdout


def test_a_folder_an_adapter_and_a_reference(rl4vlm, tmp_path, blind):
    from PIL import Image
    (tmp_path/"toys").mkdir()
    for i, name in enumerate(("cat", "dog", "owl", "cow", "hen")):
        Image.new("RGB", (50, 40), (50 * i, 90, 20)).save(tmp_path/f"toys/{name}.png")
    options = ["--task", "PickImage", "--task_options.data_root", "toys", "--task_options.correct_index", "null"]
    rl4vlm("trl-rloo", *options, "--model", blind, "--out", "a", "--lora.r", 4, "--kl.coef", 0.1, *SHORT)
    assert (tmp_path/"a/rloo/adapter_config.json").exists()
    assert "kl" in json.loads((tmp_path/"a/metrics.jsonl").read_text().splitlines()[0])
    rl4vlm("eval", *options, "--model", "a/rloo", "--panel", "val-50", "--sampling.max_new_tokens", 8,
           "--baselines", "false", "--out", "b")


def test_zero3_is_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file
    config = load_config_from_file(str(ROOT/"scripts/accelerate/zero3.yaml"))
    assert (str(config.distributed_type.value), config.deepspeed_config["zero_stage"], config.use_cpu) == (
        "DEEPSPEED", 3, False)


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_right_place_is_learned(rl4vlm, tmp_path, seed):
    "A mean reward of 0.95 over the last ten of 60 steps, from a chance of one in four."
    rl4vlm("trl-rloo", "--task", "PickImage", "--seed", seed, "--out", "run", timeout=3000)
    rewards = [json.loads(line)["reward"] for line in (tmp_path/"run/metrics.jsonl").read_text().splitlines()]
    assert len(rewards) == 60 and rewards[0] < 0.6 and np.mean(rewards[-10:]) >= 0.95, rewards


@pytest.mark.full
def test_a_named_image_is_looked_for(rl4vlm, tmp_path):
    "Chance is one in four; a mean reward of 0.95 over the last ten of 60 steps."
    rl4vlm("trl-rloo", "--task", "PickImage", "--task_options.correct_index", "null", "--out", "run", timeout=6000)
    rewards = [json.loads(line)["reward"] for line in (tmp_path/"run/metrics.jsonl").read_text().splitlines()]
    assert len(rewards) == 60 and np.mean(rewards[-10:]) >= 0.95, rewards
