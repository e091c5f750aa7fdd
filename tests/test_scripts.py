"The scripts that people copy: run for real, from examples to a trained policy; and the table of coverage."
import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
import pytest
from conftest import ROOT

def run(script, *arguments, cwd):
    "Run a script as its docstring says."
    done = subprocess.run([sys.executable, ROOT/"scripts"/script, *map(str, arguments)],
                          cwd=cwd, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_examples_to_policy(tmp_path, blind_model):
    from rl4vlm.collect import collect
    from rl4vlm.config import CollectConfig, PreprocessConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.preprocess import preprocess
    collect(CollectConfig(episodes=20, out=str(tmp_path/"c")))
    preprocess(PreprocessConfig(data=str(tmp_path/"c/data/episodes"), out=str(tmp_path/"c")))
    said = run("train_sft.py", "--model", blind_model, "--data", "c/data", "--out", "s", "--steps", 10,
               "--optim.batch_size", 4, "--lora.r", 4, cwd=tmp_path)
    assert "10/10 loss" in said and (tmp_path/"s/sft/adapter_config.json").exists()
    said = run("train_ppo.py", "--model", "s/sft", "--out", "p", "--updates", 2, "--rollout.envs", 4,
               "--rollout.steps", 2, "--optim.minibatch", 8, "--optim.epochs", 1, "--sampling.max_new_tokens", 8,
               "--optim.value_warmup", 0, cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path/"p/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2] and all(f"{step} {{" in said for step in (0, 1, 2))
    before, after = (VLMPolicy.load(tmp_path/folder).model.state_dict()
                     for folder in ("s/sft", "p/ppo/checkpoints/step_2"))
    moved = {n for n in before if (before[n] != after[n]).any()}
    assert moved and all("lora" in n for n in moved), "the adapter learned, and nothing else did"


@pytest.fixture(scope="module")
def run_tests():
    spec = importlib.util.spec_from_file_location("run_tests", ROOT/"scripts"/"run_tests.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_notebooks_in_a_browser_are_left_out_where_there_is_none(run_tests, monkeypatch):
    assert run_tests.IN_CHROMIUM <= {p.stem for p in (ROOT/"nbs").rglob("*.ipynb")}
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    assert "install" in run_tests.no_browser()
    monkeypatch.setenv("CI", "1")
    assert run_tests.no_browser() == ""   # there they have to run


def test_coverage_is_printed_by_module_when_it_is_asked_for(run_tests, tmp_path):
    (tmp_path/"test_one.py").write_text("def test_one():\n    from rl4vlm.statistics import wilson\n    wilson(1, 2)\n")
    for asked in (False, True):
        command = run_tests.pytest_command("", tmp_path/"tests.xml", asked, [tmp_path/"test_one.py"])
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "COVERAGE_FILE": str(tmp_path/"coverage")})
        assert done.returncode == 0, done.stdout + done.stderr
        assert bool(re.search(r"^rl4vlm/statistics\.py +\d+ +\d+ +[1-9]\d?%$", done.stdout, re.M)) == asked, done.stdout
        assert "_modidx" not in done.stdout and "1 passed" in done.stdout


@pytest.mark.parametrize("script, name", [("train_ppo.py", "PPOConfig"), ("train_sft.py", "SFTConfig")])
def test_a_script_opens_with_the_command_that_runs_it(script, name):
    import rl4vlm.config
    text = re.sub(r" \\\n +", " ", (ROOT/"scripts"/script).read_text())
    commands = re.findall(rf"^    python scripts/{script} .*$", text.split('"""')[1], re.M)
    known = {f.name for f in fields(getattr(rl4vlm.config, name))}
    assert commands
    for option in re.findall(r"--([\w.]+)", " ".join(commands)): assert option.split(".")[0] in known, option
    assert len(ast.parse(text).body[-1].body) <= 9, "short enough to copy"
