"The commands, run as subprocesses the way a user runs them."
import json
import pytest
import yaml

TINY = ["--updates", 2, "--rollout.envs", 4, "--rollout.steps", 2, "--optim.minibatch", 4, "--optim.epochs", 1,
        "--sampling.max_new_tokens", 8, "--run.save_every", 1]


def test_stages_one_by_one(rl4vlm, tmp_path, blind_model):
    rl4vlm("collect", "--task", "NumberLine", "--episodes", 20, "--out", "runs/a")
    rl4vlm("preprocess", "--data", "runs/a/data/episodes", "--out", "runs/a")
    rl4vlm("sft", "--model", blind_model, "--data", "runs/a/data", "--steps", 3, "--out", "runs/b")
    rows = [json.loads(line) for line in (tmp_path/"runs/b/sft/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3 and all("loss" in r for r in rows)     # short as it is, it is logged
    rl4vlm("ppo", "--model", "runs/b/sft", "--out", "runs/c", *TINY)
    table = rl4vlm("eval", "--model", "runs/c/ppo/best", "--panel", "val-50", "--sampling.max_new_tokens", 8,
                   "--out", "runs/d").stdout
    assert all(f"| {name} |" in table for name in ("random", "oracle", "model"))
    results = json.loads((tmp_path/"runs/d/results.json").read_text())
    assert results["panel"] == "val-50" and {"name", "success", "low", "high", "episodes"} <= set(results["rows"][0])
    assert ([json.loads(line)["step"] for line in (tmp_path/"runs/c/metrics.jsonl").read_text().splitlines()]
            == [0, 1, 2])
    rl4vlm("report", "--runs", "[runs/d]")
    assert "http:" not in (page := (tmp_path/"runs/d/report.html").read_text()) and "https:" not in page


def test_adapters_go_the_same_way(rl4vlm, tmp_path, blind_model):
    rl4vlm("collect", "--episodes", 10, "--out", "runs/a")
    rl4vlm("preprocess", "--data", "runs/a/data/episodes", "--out", "runs/a")
    rl4vlm("sft", "--model", blind_model, "--data", "runs/a/data", "--steps", 2, "--lora.r", 4, "--out", "runs/b")
    assert (tmp_path/"runs/b/sft/adapter_config.json").exists() and (tmp_path/"runs/b/sft/heads.safetensors").exists()
    rl4vlm("ppo", "--model", "runs/b/sft", "--out", "runs/c", "--optim.activation_checkpointing", *TINY)
    rl4vlm("ppo", "--model", "runs/b/sft", "--out", "runs/c", "--optim.activation_checkpointing", "--resume", *TINY)
    rl4vlm("eval", "--model", "runs/c/ppo/best", "--panel", "val-50", "--sampling.max_new_tokens", 8,
           "--baselines", "false", "--out", "runs/d")


def test_print_config_reads_back(rl4vlm, tmp_path):
    first = rl4vlm("ppo", "--lora.r", 8, "--print_config").stdout
    assert yaml.safe_load(first)["lora"]["r"] == 8
    (tmp_path/"saved.yaml").write_text(first)
    assert rl4vlm("ppo", "--config", "saved.yaml", "--print_config").stdout == first


def test_a_run_folder_is_not_overwritten_in_silence(rl4vlm, tmp_path):
    rl4vlm("collect", "--episodes", 2, "--out", "runs/a")
    before = (tmp_path/"runs/a/data/episodes/00000.parquet").read_bytes()
    assert "--overwrite" in rl4vlm("collect", "--episodes", 3, "--out", "runs/a", code=2).stderr
    assert (tmp_path/"runs/a/data/episodes/00000.parquet").read_bytes() == before
    rl4vlm("collect", "--episodes", 3, "--out", "runs/a", "--overwrite")
    (tmp_path/"notes").mkdir(); (tmp_path/"notes/mine.txt").write_text("mine")
    assert "not a run folder" in rl4vlm("collect", "--episodes", 2, "--out", "notes", "--overwrite", code=2).stderr
    assert (tmp_path/"notes/mine.txt").exists()


@pytest.mark.parametrize("arguments, says", [
    (["ppo", "--task", "numberlin"], "did you mean 'NumberLine'?"),
    (["pop"], "did you mean 'ppo'?"),
    (["ppo", "--leaning_rate", "1"], "--leaning_rate"),
    (["ppo", "--loss.thought_weight", "1.5"], "between 0 and 1"),
    (["ppo", "--rollout.steps", "-3"], "at least 1"),
    (["ppo", "--rollout.steps", "many"], "many"),
    (["ppo", "--model", "./nowhere"], "does not exist"),
    (["sft", "--data", "nowhere"], "rl4vlm preprocess"),
    (["eval", "--panel", "test-20"], "did you mean 'test-200'?"),
    (["ppo", "--import", "no_such_module"], "no_such_module"),
    (["quickstart", "--ppo.loss.clip", "0"], "above 0"),
])
def test_wrong_commands_get_one_clear_line(rl4vlm, arguments, says, tmp_path):
    done = rl4vlm(*arguments, code=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0], done.stderr


def test_a_strangers_task(rl4vlm, tmp_path, blind_model):
    (tmp_path/"my_tasks.py").write_text('''
from rl4vlm.tasks import Task, register_task

@register_task
class FrozenLake(Task):
    env_id, env_kwargs = "FrozenLake-v1", dict(render_mode="rgb_array", is_slippery=False)
    actions = ["left", "down", "right", "up"]
    goal = "Walk over the ice to the gift. Holes end the game."
''')
    rl4vlm("ppo", "--import", "my_tasks", "--task", "FrozenLake", "--model", blind_model, "--out", "runs/ice", *TINY)
    assert "FrozenLake" in rl4vlm("tasks", "--import", "my_tasks", "--task", "FrozenLake", "--episodes", 5).stdout
