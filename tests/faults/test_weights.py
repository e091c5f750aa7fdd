"""Weights that did not load: whatever is missing, or has no place, is an error that names some; known older layouts are
translated.

A merge is what base and adapter are, on a forward pass, or it is not written. A checkpoint's own code is never run.
"""
import io
import json
import shutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from rl4vlm.config import LoRAConfig
from rl4vlm.core import UsageError
from rl4vlm.merge import answer_logits, merge_adapter
from rl4vlm.models import load_vlm
from rl4vlm.policy import VLMPolicy
from rl4vlm.tiny import FAMILIES, build_tiny

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A base and a trained-looking adapter of each family."
    top = tmp_path_factory.mktemp("made")
    for family in FAMILIES:
        build_tiny(top/family, family, texts=["Which number is larger?"])
        policy = VLMPolicy.load(top/family, device="cpu", dtype="float32", lora=LoRAConfig(r=2, parts="all"))
        torch.manual_seed(0)
        with torch.no_grad():
            for n, p in policy.model.named_parameters():
                if "lora_B" in n: p.normal_(std=0.05)
        policy.save(top/f"{family}-adapter")
    return top


def changed(folder, to, change, file=None):
    "A copy of a checkpoint with other tensors."
    shutil.copytree(folder, to)
    whole = not (to/"adapter_model.safetensors").exists()
    file = to/(file or ("model.safetensors" if whole else "adapter_model.safetensors"))
    save_file({k: v.contiguous().clone() for k, v in change(load_file(file)).items()}, file, metadata=dict(format="pt"))
    return to

def half(tensors): return dict(list(tensors.items())[::2])
def without_last(tensors): return dict(list(tensors.items())[:-1])
def stranger(tensors): return tensors | dict(stranger=torch.zeros(2))
def shorter(tensors): return {k: v[:-1] if i == 0 else v for i, (k, v) in enumerate(tensors.items())}
def elsewhere(tensors):
    return {k.replace("base_model.model", "base_model.other").replace("layers", "blocks"): v
            for k, v in tensors.items()}

CHANGES = pytest.mark.parametrize("change", [half, without_last, stranger, shorter, elsewhere],
                                  ids=lambda f: f.__name__)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["", "-adapter"])
def test_whole_checkpoints_load(made, family, kind): load_vlm(str(made/f"{family}{kind}"), device="cpu")


@CHANGES
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2_5_vl-adapter", "llava_next"])
def test_what_does_not_fit_is_refused(made, tmp_path, kind, change):
    folder = changed(made/kind, tmp_path/"changed", change)
    with pytest.raises(UsageError, match="do(es)? not fit"): load_vlm(str(folder), device="cpu")
    if "adapter" in kind:
        with pytest.raises(UsageError, match="do(es)? not fit"): merge_adapter(folder, tmp_path/"merged")
        assert not (tmp_path/"merged").exists()


@CHANGES
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2_5_vl-adapter"])
def test_a_checkpoint_of_a_run_likewise(made, tmp_path, kind, change):
    policy = VLMPolicy.load(made/kind, device="cpu")
    policy.save(tmp_path/"saved"); policy.load_weights(tmp_path/"saved")
    with pytest.raises(UsageError, match="do(es)? not fit"):
        policy.load_weights(changed(tmp_path/"saved", tmp_path/"changed", change))


@pytest.mark.parametrize("change",
                         [without_last, stranger, lambda t: {k: v for k, v in t.items() if k != "value_head.0.weight"}])
def test_heads_likewise(made, tmp_path, change):
    with pytest.raises(UsageError, match="heads.safetensors.*such as"):
        VLMPolicy.load(changed(made/"qwen2_vl-adapter", tmp_path/"changed", change, "heads.safetensors"), device="cpu")


@pytest.mark.parametrize("family, old, new",
                         [("qwen2_vl", ".language_model.", "."), ("qwen2_5_vl", "model.model.visual", "model.visual"),
                          ("llava_next", "model.language_model.", "language_model.model.")])
def test_older_layouts_of_adapters_are_translated(made, tmp_path, family, old, new):
    "As transformers before 4.52 named them."
    folder = changed(made/f"{family}-adapter", tmp_path/"older",
                     lambda t: {k.replace(old, new): v for k, v in t.items()})
    config = json.loads((folder/"adapter_config.json").read_text())
    if family == "qwen2_vl":
        (folder/"adapter_config.json").write_text(
            json.dumps(config | dict(target_modules=[t.replace(old, new) for t in config["target_modules"]])))
    ours, theirs = (answer_logits(*load_vlm(str(f), device="cpu", dtype="float32"))
                    for f in (folder, made/f"{family}-adapter"))
    assert torch.equal(ours, theirs)


# --- merging ---

@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_is_checked(made, tmp_path, monkeypatch, family):
    "If merging loses something, nothing is written."
    from peft.tuners.lora.layer import Linear
    merge_adapter(made/f"{family}-adapter", tmp_path/"merged")
    true = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: true(self, name) * 0.9)
    with pytest.raises(UsageError, match="cannot be merged: the logits would be"):
        merge_adapter(made/f"{family}-adapter", tmp_path/"wrong")
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize(
    "options", [dict(target_modules=["lm_head"]), dict(target_modules=["q_proj"], modules_to_save=["lm_head"])],
    ids=["adapted", "replaced"])
def test_a_head_tied_to_the_embeddings(made, tmp_path, options):
    "An adapter on it would change the embeddings too; a head of its own is written beside them."
    from peft import LoraConfig, get_peft_model
    model, processor = load_vlm(str(made/"qwen2_5_vl"), device="cpu", dtype="float32")
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **options))
    with torch.no_grad():
        for n, p in adapted.named_parameters():
            if "modules_to_save" in n: p.add_(0.1 * torch.randn_like(p))
    adapted.save_pretrained(tmp_path/"adapter", save_embedding_layers=False)
    if "modules_to_save" in options:
        merge_adapter(tmp_path/"adapter", tmp_path/"merged")
        ours, theirs = (answer_logits(*load_vlm(str(tmp_path/f), device="cpu", dtype="float32"))
                        for f in ("merged", "adapter"))
        assert (ours - theirs).abs().max() < 1e-4
    else:
        with pytest.raises(UsageError, match="cannot be merged"): merge_adapter(tmp_path/"adapter", tmp_path/"merged")
        assert not (tmp_path/"merged").exists()


# --- code ---

EVIL = "from pathlib import Path\nPath({mark!r}).write_text('ran')\nclass X:\n    pass\n"

@pytest.mark.parametrize("file, entry",
                         [("config.json", dict(AutoConfig="evil.X", AutoModelForImageTextToText="evil.X")),
                          ("processor_config.json", dict(AutoProcessor="evil.X")),
                          ("preprocessor_config.json", dict(AutoImageProcessor="evil.X")),
                          ("tokenizer_config.json", dict(AutoTokenizer=["evil.X", None])),
                          ("video_preprocessor_config.json", dict(AutoVideoProcessor="evil.X"))])
@pytest.mark.parametrize("known", [True, False])
def test_a_checkpoints_own_code_is_refused_and_nobody_is_asked(made, tmp_path, monkeypatch, capsys, file, entry, known):
    folder = tmp_path/"evil"
    shutil.copytree(made/"qwen2_5_vl", folder)
    (folder/"evil.py").write_text(EVIL.format(mark=str(tmp_path/"ran")))
    had = json.loads((folder/file).read_text()) if (folder/file).exists() else {}
    kinds = {"model_type", "processor_class", "tokenizer_class", "image_processor_type"} & had.keys()
    (folder/file).write_text(json.dumps(had | dict(auto_map=entry) | ({} if known else dict.fromkeys(kinds, "Evil"))))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UsageError) as error: load_vlm(str(folder), device="cpu")
    assert "\n" not in str(error.value) and "code" in str(error.value) and error.value.exit_code == 2
    assert not (tmp_path/"ran").exists() and "[y/N]" not in capsys.readouterr().out


def test_the_model_card_says_what_was_trained(blind_model, tmp_path):
    "Also where the adapter came with the model and no option speaks of one."
    from rl4vlm.config import LoRAConfig, SFTConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.sft import train_sft
    rows = [dict(messages=[dict(role="user", content=[dict(type="text", text="Which?")]),
                           dict(role="assistant", content="up")], images=[])] * 2
    config = SFTConfig(steps=1, optim=dict(batch_size=2), lora=LoRAConfig(r=3))
    train_sft(rows, VLMPolicy.load(blind_model, lora=LoRAConfig(r=3)), config, tmp_path/"a")
    train_sft(rows, VLMPolicy.load(tmp_path/"a"), SFTConfig(steps=1, optim=dict(batch_size=2)), tmp_path/"b")
    train_sft(rows, VLMPolicy.load(blind_model), SFTConfig(steps=1, optim=dict(batch_size=2)), tmp_path/"c")
    said = [(tmp_path/name/"README.md").read_text() for name in "abc"]
    assert "LoRA of rank 3, on language" in said[0] and "LoRA of rank 3, the one it started from" in said[1]
    assert "# An adapter" in said[1] and "none; language learned" in said[2]


def test_an_adapter_without_weights_is_no_adapter(tmp_path):
    from rl4vlm.models import checkpoint_kind
    (tmp_path/"adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="incomplete.*no adapter_model.safetensors"): checkpoint_kind(str(tmp_path))
