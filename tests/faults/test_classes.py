("Checkpoints of other kinds, and with a processor, a template or a tokenizer that is not as it "
 "should be: one line each.")
import json
import shutil
from pathlib import Path
import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoProcessor
from rl4vlm.core import InvariantError, UsageError
from rl4vlm.families import build_family
from rl4vlm.generate import generate
from rl4vlm.models import load_vlm
from rl4vlm.policy import VLMPolicy

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
ASK = [dict(role="user", content=[dict(type="image"), dict(type="text", text="Which?")])]

OF_ANOTHER_KIND = dict(
    llama="text-only or unknown kind .llama.",
    whisper="text-only or unknown kind .whisper.", mistral4="reads text, no images",
    instructblipvideo="reads video and text, no images", evolla="text", pi0="writes no text",
    t5gemma2="encoder-decoder", florence2="encoder-decoder", pix2struct="encoder-decoder", git="names no image token",
    chameleon="words of a codebook",
    **{"vision-encoder-decoder": "encoder-decoder", "blip-2": "no text without an image"})


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    top = tmp_path_factory.mktemp("families")
    def made(family): return top/family if (top/family/"config.json").exists() else build_family(top/family, family)
    return made

@pytest.fixture
def copy_of(built, tmp_path):
    def made(family): return Path(shutil.copytree(built(family), tmp_path/"mine"))
    return made

def refused(folder, match):
    with pytest.raises(UsageError, match=match) as e: load_vlm(str(folder), device="cpu")
    assert len(str(e.value).splitlines()) == 1

def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))

def policy_of(folder): return VLMPolicy.load(folder, device="cpu", dtype="float32")

def logprobs(policy):
    with torch.no_grad(): return policy.score([policy.encode(ASK, [IMAGE])], [np.arange(40, 48)]).logprobs


@pytest.mark.parametrize("kind", OF_ANOTHER_KIND)
def test_a_checkpoint_of_another_kind(kind, tmp_path):
    "Told by its configuration alone, before weights are looked at."
    if kind == "vision-encoder-decoder":
        from transformers import BertConfig, VisionEncoderDecoderConfig, ViTConfig
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), BertConfig())
    else: config = CONFIG_MAPPING[kind]()
    config.save_pretrained(tmp_path)
    (tmp_path/"model.safetensors").touch()
    refused(tmp_path, OF_ANOTHER_KIND[kind])


@pytest.mark.parametrize("family", ["got_ocr2", "pp_chart2table"])
def test_a_model_that_reads_documents_only(family, built): refused(built(family), "reads no text without an image")


def test_a_command_says_it_in_one_line(rl4vlm, built):
    done = rl4vlm("ppo", "--task", "NumberLine", "--model", built("got_ocr2"), "--out", "run", code=None)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert "reads no text without an image" in done.stderr.strip().splitlines()[-1]


def test_no_processor_and_no_template(copy_of):
    folder = copy_of("gemma3")
    (folder/"chat_template.jinja").unlink()
    refused(folder, "has no chat template")
    for file in ("processor_config.json", "preprocessor_config.json"): (folder/file).unlink(missing_ok=True)
    refused(folder, "no image processor|no processor that can be loaded")


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl"])
def test_a_template_of_the_tokenizer_alone_is_enough(family, copy_of):
    folder = copy_of(family)
    before = logprobs(policy_of(folder))
    template = (folder/"chat_template.jinja").read_text()
    (folder/"chat_template.jinja").unlink()
    edit(folder/"tokenizer_config.json", lambda c: c.update(chat_template=template))
    assert AutoProcessor.from_pretrained(folder).chat_template is None
    policy = policy_of(folder)
    assert torch.equal(logprobs(policy), before)
    policy.save(folder.parent/"saved")
    assert torch.equal(logprobs(policy_of(folder.parent/"saved")), before)


def test_a_template_that_cannot_be_used(copy_of):
    folder = copy_of("gemma3")
    (folder/"chat_template.jinja").write_text("{{ messages[0].content[7].text.upper() }}")
    refused(folder, "its chat template cannot be used")


def test_more_tokens_than_the_model_has(copy_of):
    folder = copy_of("gemma3")
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens(["<think>"])
    processor.save_pretrained(folder)
    refused(folder, r"its tokenizer has (\d+) tokens, the model \d+")


def test_added_tokens_that_the_model_has(copy_of):
    "An ordinary one may be said and is text; a special one and an id without a token may not."
    folder = copy_of("gemma3")
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    rows = len(processor.tokenizer)
    processor.tokenizer.add_tokens(["thinking"])
    processor.tokenizer.add_special_tokens(dict(additional_special_tokens=["<secret>"]),
                                           replace_extra_special_tokens=False)
    model.resize_token_embeddings(rows + 6)
    for part in (model, processor): part.save_pretrained(folder)
    policy = policy_of(folder)
    word, secret = policy.tokenizer.convert_tokens_to_ids(["thinking", "<secret>"])
    assert {word, secret} == {rows, rows + 1} and policy.allowed.shape == (rows + 6,)
    assert policy.allowed[word] and not policy.allowed[secret] and not policy.allowed[rows + 2:].any()
    [answer] = generate(policy, [policy.encode(ASK, [IMAGE])], 16, 5.0, seeds=[0])
    assert not {secret, *range(rows + 2, rows + 6)} & {*answer.ids.tolist()}
    assert policy.answer_ids("thinking")[0] == word and policy.decode([word]) == "thinking"
    with pytest.raises(UsageError, match="'<secret>', a special token"): policy.answer_ids("a <secret>")


@pytest.mark.parametrize("family", ["qwen3_vl", "mllama"])
def test_the_side_of_padding_does_not_matter(family, copy_of):
    folder = copy_of(family)
    sides = []
    for side in ("left", "right"):
        edit(folder/"tokenizer_config.json", lambda c: c.update(padding_side=side))
        policy = policy_of(folder)
        assert policy.tokenizer.padding_side == side
        prompts = [policy.encode(ASK, [IMAGE]), policy.encode([dict(role="user", content="And now, what is it?")])]
        with torch.no_grad(): sides.append(policy.score(prompts, [np.arange(40, 48), np.arange(40, 45)]).logprobs)
    assert torch.equal(*sides)


@pytest.mark.parametrize("family, other", [("gemma3", "qwen3_vl"), ("qwen3_vl", "llava"), ("smolvlm", "gemma3")])
def test_a_processor_of_another_model(family, other, copy_of, built):
    "Refused as soon as it is told from the model's own: by its tokens and sizes, at the latest by its first image."
    folder, ours = copy_of(family), lambda file: file.name == "config.json" or file.suffix == ".safetensors"
    for file in folder.iterdir():
        if not ours(file): file.unlink()
    for file in built(other).iterdir():
        if not ours(file): shutil.copy(file, folder)
    with pytest.raises((UsageError, InvariantError),
                       match="does not fit its model|image features|processor of another model") as e:
        logprobs(policy_of(folder))
    assert len(str(e.value).splitlines()) == 1
