"""Fine-tuning and TRL are loops of transformers: killed or asked to stop, and resumed, they end as if nothing had
been."""
import json
import os
import random
import shutil
import signal
import sys
import time
import pytest
from processes import finish, kill, start
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
STAGES = {   # options, metrics, folder of the result, metrics' rows before the kill
    "sft": ("--task NumberLine --captions true --steps 40 --optim.batch_size 4 "
            "--run.save_every 5 --lora.r 4 --lora.dropout 0.1",
            "sft/metrics.jsonl", "sft", 3),
    "trl-rloo": ("--task PickImage --steps 8 --prompts 2 --group_size 2 --sampling.max_new_tokens 8 --run.save_every 2",
                 "metrics.jsonl", "rloo", 3)}


def command(stage, model, out, *more):
    return [sys.executable, "-m", "rl4vlm.cli", stage, "--model", str(model), "--out", str(out),
            *STAGES[stage][0].split(), *more]


def rows(stage, out):
    path = out/STAGES[stage][1]
    return len(path.read_text().splitlines()) if path.exists() else 0


def assert_equal(stage, a, b, metrics=True):
    if metrics: assert (a/STAGES[stage][1]).read_bytes() == (b/STAGES[stage][1]).read_bytes()
    of_a, of_b = ({f"{p.name}/{k}": v for p in (out/STAGES[stage][2]).glob("*.safetensors")
                   for k, v in load_file(p).items()} for out in (a, b))
    assert of_a.keys() == of_b.keys() and of_a
    for name in of_a: assert (of_a[name] == of_b[name]).all(), name


@pytest.fixture(scope="module")
def whole(blind_model, tmp_path_factory):
    "A run that nobody disturbed."
    made = {}
    def make(stage):
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp("whole")/"run"
            finish(command(stage, blind_model, made[stage]))
        return made[stage]
    return make


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed(blind_model, whole, tmp_path, stage):
    run, process = tmp_path/"run", start(command(stage, blind_model, tmp_path/"run"))
    while process.poll() is None and rows(stage, run) < STAGES[stage][3]: time.sleep(0.01)
    time.sleep(random.Random(stage).random() / 2)
    kill(process)
    assert not (run/STAGES[stage][2]/"adapter_model.safetensors").exists(), "the kill came too late"
    newest = max((run/("sft/checkpoints" if stage == "sft" else "trl")).glob("checkpoint-*"),
                 key=lambda p: int(p.name.split("-")[1]))
    shutil.copytree(newest, newest.with_name("checkpoint-39"))
    (newest.with_name("checkpoint-39")/"trainer_state.json").unlink(missing_ok=True)   # killed while it was written
    finish(command(stage, blind_model, run, "--resume", "true"))
    assert_equal(stage, run, whole(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_asked_to_stop(blind_model, whole, tmp_path, stage):
    run, process = tmp_path/"run", start(command(stage, blind_model, tmp_path/"run"))
    while process.poll() is None and not rows(stage, run): time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 75 and "checkpoint written" in output and (run/"requeue").exists(), output[-2000:]
    [*_, last] = (json.loads(line)["step"] for line in (run/STAGES[stage][1]).read_text().splitlines())
    assert list(run.glob(f"*/**/checkpoint-{last}/trainer_state.json")), "the last step was not saved"
    finish(command(stage, blind_model, run, "--resume", "true"))
    assert not (run/"requeue").exists()
    # fine-tuning logs means of several steps, and the stop ends one of them early
    assert_equal(stage, run, whole(stage), metrics=stage != "sft")


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_after_the_end_and_before_the_first_checkpoint(blind_model, whole, tmp_path, stage):
    run = tmp_path/"run"
    shutil.copytree(whole(stage), run)
    finish(command(stage, blind_model, run, "--resume", "true"))
    assert_equal(stage, run, whole(stage))
    shutil.rmtree(run/("sft/checkpoints" if stage == "sft" else "trl"))
    finish(command(stage, blind_model, run, "--resume", "true"))
    assert_equal(stage, run, whole(stage))
