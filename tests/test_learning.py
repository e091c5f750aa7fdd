"""PPO, RLOO and GRPO solve NumberLine from the same imitator: at least 189 of the 200 episodes of test-200.

That is where the lower end of the 95 % interval passes 90 %. RLOO and GRPO play 128 whole episodes an update where PPO
plays 256 turns, which is more turns. Minutes each; PPO is part of the quickstart's own test.
"""
import json
import pytest

SHARED = "--task NumberLine --seed 0".split()
PPO = ("--updates 30 --rollout.envs 128 --optim.epochs 2 --optim.minibatch 64 --optim.lr 1e-4 --optim.end_lr 2e-5 "
       "--loss.thought_weight 0.5 --sampling.max_new_tokens 40".split())


@pytest.mark.full
@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "gigpo"])
def test_each_algorithm_solves_number_line(rl4vlm, tmp_path, advantage):
    if not (tmp_path/"sft").exists():
        rl4vlm("collect", *SHARED, "--episodes", 500, "--error_rate", 0.25, "--out", "sft", timeout=3000)
        rl4vlm("preprocess", "--data", "sft/data/episodes", "--out", "sft")
        rl4vlm("sft", *SHARED, "--data", "sft/data", "--out", "sft/run", "--steps", 300, "--optim.batch_size", 16,
               "--optim.lr", 2e-3, timeout=3000)
    more = (["--rollout.envs", 32, "--rollout.steps", 8, "--optim.value_lr", 3e-3] if advantage == "gae"
            else ["--advantage.estimator", advantage])
    rl4vlm("ppo", *SHARED, *PPO, *more, "--model", "sft/run/sft", "--out", "rl", timeout=3000)
    rl4vlm("eval", "--task", "NumberLine", "--model", "rl/ppo/best", "--panel", "test-200",
           "--sampling.max_new_tokens", 40, "--baselines", "false", "--out", "eval", timeout=3000)
    [row] = json.loads((tmp_path/"eval"/"results.json").read_text())["rows"]
    assert row["success"] * 200 >= 189, row
