"The scripts that people copy: run for real, from examples to a trained policy."
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


@pytest.mark.parametrize("script, name", [("train_ppo.py", "PPOConfig"), ("train_sft.py", "SFTConfig")])
def test_a_script_opens_with_the_command_that_runs_it(script, name):
    import rl4vlm.config
    text = re.sub(r" \\\n +", " ", (ROOT/"scripts"/script).read_text())
    commands = re.findall(rf"^    python scripts/{script} .*$", text.split('"""')[1], re.M)
    known = {f.name for f in fields(getattr(rl4vlm.config, name))}
    assert commands
    for option in re.findall(r"--([\w.]+)", " ".join(commands)): assert option.split(".")[0] in known, option
    assert len([l for l in text.split('"""')[2].split("if __name__")[1].splitlines()[1:]
                if l.strip()]) <= 8, "short enough to copy"
