"Models whose configuration is here and whose weights are not: sizes as published, parts, memory; broken ones are told."
import json
import pytest
from rl4vlm import cli
from rl4vlm.config import PPOConfig
from rl4vlm.core import UsageError
from rl4vlm.dry_run import check_paper, estimate, known_models, on_paper, only_on_paper, run_paper, shapes_of
from rl4vlm.families import build_family
from rl4vlm.models import check_parts, load_vlm
from rl4vlm.tasks import make_task

KNOWN = known_models()


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_are_the_published_ones_and_parts_are_known(name):
    model = on_paper(name)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(KNOWN[name]["billions"], rel=0.003)
    check_parts(model, name)


@pytest.mark.parametrize("makers", ["Qwen/Qwen3-VL", "google/gemma-3", "HuggingFaceTB/SmolVLM2", "OpenGVLab/InternVL3"])
def test_the_table_covers_what_people_use(makers): assert sum(n.startswith(makers) for n in KNOWN) >= 3


def test_every_known_model_can_be_estimated():
    task = make_task("NumberLine")
    for name in KNOWN:
        row = estimate(PPOConfig(model=name, lora=dict(r=16)), task, [(1, 0)])[0]
        assert row["memory"]["update"] > row["memory"]["weights"] > 0 and row["prompt"] > 100


@pytest.fixture()
def bare(tmp_path):
    "A folder with the files of a checkpoint, and no weights."
    folder = build_family(tmp_path/"bare", "smolvlm")
    (folder/"model.safetensors").unlink()
    return folder


def test_a_folder_without_weights_is_looked_at_on_paper(bare, capsys):
    assert cli.main(["doctor", "--model", str(bare)]) == 0
    out = capsys.readouterr().out
    assert "on paper" in out and "template        holds" in out and "fast path" in out
    with pytest.raises(UsageError, match="no .*safetensors"): load_vlm(str(bare))   # and by nothing else


@pytest.mark.parametrize("change, told", [
    (lambda c: dict(c, image_token_id=10**6), "image token"),
    (lambda c: dict(c, text_config=dict(c["text_config"], vocab_size=100)), "template"),
], ids=["image token beyond the vocabulary", "tokenizer larger than the model"])
def test_what_does_not_hold_is_told(bare, change, told):
    (bare/"config.json").write_text(json.dumps(change(json.loads((bare/"config.json").read_text()))))
    lines = []
    assert run_paper(str(bare), lines.append) == 1
    assert any(line.startswith(told) and "BROKEN" in line for line in lines) and "cannot be trained here" in lines[-1]


def test_parts_without_a_name_are_told_on_paper(bare, monkeypatch):
    monkeypatch.setattr("rl4vlm.models.MERGER_NAMES", ())
    found = {what: (holds, words) for what, holds, words in check_paper(str(bare))}
    assert found["parts"][0] is False and "connector" in found["parts"][1]


def test_a_name_that_nobody_knows():
    assert not only_on_paper("nobody/nothing")
    with pytest.raises(UsageError, match="sizes of model 'nobody/nothing' are not known"): shapes_of("nobody/nothing")
