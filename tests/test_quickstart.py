"The promise of the front page: a newcomer's one command trains an agent, measurably."
import json
import signal
import subprocess
import sys
import time
import pytest

COMMAND = [sys.executable, "-m", "rl4vlm.cli", "quickstart"]
SMALL = ["--model", "{model}", "--collect.episodes", "20", "--sft.steps", "4",
         "--ppo.updates", "6", "--ppo.rollout.envs", "4", "--ppo.rollout.steps", "2", "--ppo.optim.minibatch", "8",
         "--ppo.sampling.max_new_tokens", "8", "--eval.panel", "val-50", "--eval.sampling.max_new_tokens", "8",
         "--ppo.run.save_every", "1", "--ppo.run.eval_every", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("seed, model", [(0, "tiny"), *(pytest.param(*row, marks=pytest.mark.full) for row in (
    (1, "tiny"), (2, "tiny"), (0, "tiny:smolvlm"), (0, "tiny:gemma3"), (0, "tiny:qwen3_5")))])
def test_quickstart_learns(tmp_path, seed, model):
    "SFT at most 75 %, PPO at least 95 %, intervals apart, on test-200."
    subprocess.run([*COMMAND, "--seed", str(seed), "--model", model, "--out", "run"], cwd=tmp_path, check=True,
                   timeout=3000)
    results = json.loads((tmp_path/"run/results.json").read_text())
    rows = {r["name"]: r for r in results["rows"]}
    assert list(rows) == ["random", "oracle", "sft", "ppo"]
    assert results["panel"] == "test-200" and rows["ppo"]["episodes"] == 200
    assert rows["oracle"]["success"] == 1.0 and rows["random"]["success"] < 0.4
    assert (rows["sft"]["success"] <= 0.75 and rows["ppo"]["success"] >= 0.95
            and rows["sft"]["high"] < rows["ppo"]["low"]), rows
    stages = json.loads((tmp_path/"run/stages.json").read_text())
    assert max(s["peak_memory_gb"] for s in stages.values()) < 4
    assert (tmp_path/"run/report.html").stat().st_size < 10e6


def small(model): return [a.format(model=model) for a in SMALL]


def test_ctrl_c_and_resume_equal_an_uninterrupted_run(tmp_path, blind_model):
    subprocess.run([*COMMAND, "--out", "whole", *small(blind_model)], cwd=tmp_path, check=True, timeout=600)
    process = subprocess.Popen([*COMMAND, "--out", "cut", *small(blind_model)], cwd=tmp_path, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path/"cut/metrics.jsonl", time.time() + 300
    while time.time() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3): time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in errors
    assert not (tmp_path/"cut/results.json").exists()
    subprocess.run([*COMMAND, "--out", "cut", "--resume", *small(blind_model)], cwd=tmp_path, check=True, timeout=600)
    assert metrics.read_text() == (tmp_path/"whole/metrics.jsonl").read_text()
    assert (json.loads((tmp_path/"cut/results.json").read_text())
            == json.loads((tmp_path/"whole/results.json").read_text()))


def test_resume_with_other_options_is_refused(tmp_path, blind_model, rl4vlm):
    (tmp_path/"run").mkdir()
    (tmp_path/"run/config.yaml").write_text("task: NumberLine\nout: run\nseed: 0\nppo:\n  lr: 0.5\n")
    (tmp_path/"run/stages.json").write_text("{}")
    assert "ppo.optim.lr was 0.5" in rl4vlm("quickstart", "--out", "run", "--resume", "--model", blind_model,
                                            code=2).stderr
