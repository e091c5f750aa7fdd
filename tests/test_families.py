"""Four families, one code path: Qwen2-VL, Qwen2.5-VL, Qwen3-VL and LLaVA-NeXT (Mistral), each as an untrained tiny
model.

What is sampled is what is scored, with and without padding, with one image, several and none; features are remembered
without a difference; adapters go where they are told; checkpoints come back as they were.
"""
import json
import shutil
import numpy as np
import pytest
import torch
from rl4vlm.config import LoRAConfig, SFTConfig
from rl4vlm.core import UsageError
from rl4vlm.generate import generate
from rl4vlm.models import load_vlm, part_of
from rl4vlm.policy import VLMPolicy
from rl4vlm.static_cache import TOKENS, StaticCaches
from rl4vlm.tiny import FAMILIES, build_tiny

every_family = pytest.mark.parametrize("family", FAMILIES)
RNG = np.random.default_rng(0)
WIDE, TALL, SQUARE, SMALL = (RNG.integers(0, 255, (*size, 3), dtype=np.uint8)
                             for size in ((150, 300), (300, 140), (300, 300), (60, 60)))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    "An untrained checkpoint of each family, with a tokenizer for NumberLine."
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import frame_texts, sample_frames
    task = make_task("NumberLine")
    texts, top = frame_texts(task, sample_frames(task, 20)), tmp_path_factory.mktemp("families")
    return {f: build_tiny(top/f, f, texts) for f in FAMILIES}


@pytest.fixture(scope="session")
def policies(folders):
    made = {f: VLMPolicy.load(folder, device="cpu", dtype="float32") for f, folder in folders.items()}
    for p in made.values(): p.disable_dropout()
    return made


def ask(words, images=0):
    return [dict(role="user", content=[dict(type="image")] * images + [dict(type="text", text=words)])]

def mixed(policy):
    "Prompts of several lengths: one image, two, three of unequal sizes, and none."
    rows = [("Which?", [SQUARE]), ("Are these the same number?", [WIDE, TALL]), ("The target?", []),
            ("The current and the target number: which is larger?", [SMALL, SQUARE, WIDE]), ("Go.", [SQUARE])]
    return [policy.encode(ask(words, len(images)), images) for words, images in rows]

def plain_inputs(policy, prompt):
    "What somebody without this package gives the model."
    ids = torch.from_numpy(prompt.ids)[None]
    images = (policy.processor.image_processor(images=[np.array(i) for i in prompt.images], return_tensors="pt")
              if prompt.images else {})
    kinds = (dict(mm_token_type_ids=(ids == policy.config.image_token_id).int())
             if hasattr(policy.base.model, "get_rope_index") else {})
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids), **images, **kinds)

def plain_logprobs(policy, prompt, response, temperature=1.0):
    "The model's own forward on one row: logits everywhere, no cache, no padding, features anew."
    whole = plain_inputs(policy, prompt)
    n = len(response)
    whole["input_ids"] = torch.cat([whole["input_ids"], torch.as_tensor(response)[None]], 1)
    for name in ("attention_mask", "mm_token_type_ids"):
        if name in whole:
            whole[name] = torch.cat([whole[name], whole[name].new_full((1, n), int(name == "attention_mask"))], 1)
    logits = policy.model(**whole).logits[0].double() / temperature
    logits[:, ~policy.allowed] = -torch.inf
    return logits.log_softmax(-1)[len(prompt) - 1:-1].gather(1, torch.as_tensor(response)[:, None])[:, 0]


def test_the_four_families():
    assert list(FAMILIES) == ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_next"]


@every_family
def test_the_classes_are_the_real_ones(family, policies):
    assert policies[family].config.model_type == family
    assert type(policies[family].processor).__name__.lower().replace("_", "").startswith(family.replace("_", ""))


# --- log-probabilities ---

@every_family
def test_sampled_equals_recomputed_equals_plain(family, policies):
    "A padded batch of mixed rows, sampled; then scored as a batch, row by row, and by the plain model."
    policy = policies[family]
    prompts = mixed(policy)
    assert len({len(p) for p in prompts}) == len(prompts)
    answers = generate(policy, prompts, max_new_tokens=12, temperature=0.7, seeds=range(5))
    with torch.no_grad():
        scores = policy.score(prompts, [a.ids for a in answers], temperature=0.7)
        for i, (prompt, answer) in enumerate(zip(prompts, answers)):
            batch, alone = (scores.logprobs[i][scores.mask[i]],
                            policy.score([prompt], [answer.ids], temperature=0.7).logprobs[0])
            plain = plain_logprobs(policy, prompt, answer.ids, 0.7)
            for other in (torch.from_numpy(answer.logprobs), alone, plain.float()):
                assert (batch - other).abs().max() < 1e-4
        assert abs(scores.values - torch.tensor([a.value for a in answers])).max() < 1e-5


@every_family
def test_a_static_cache_changes_nothing(family, policies, monkeypatch):
    "A static cache and a compiled step write what the growing cache writes, as rows leave and places become fewer."
    policy = policies[family]
    prompts, seeds, plain = mixed(policy) * 2, range(50, 60), policy.log_softmax
    def sooner(state, temperature):
        logp = plain(state, temperature)
        logp[:, policy.end_id] += 4
        return logp.log_softmax(-1)
    monkeypatch.setattr(policy, "log_softmax", sooner)
    grown = generate(policy, prompts, 40, 1.3, seeds)
    monkeypatch.setattr(policy, "static_cache", StaticCaches(policy))
    fixed, made = generate(policy, prompts, 40, 1.3, seeds), policy.static_cache
    for a, b in zip(grown, fixed):
        assert a.ids.tolist() == b.ids.tolist() and abs(a.logprobs - b.logprobs).max() < 1e-4
    assert len({len(r.ids) for r in grown}) > 4 and 16 in made.slots and min(made.slots) <= 4
    assert {s.tokens for s in made.slots.values()} == {made.longest} and made.longest % TOKENS == 0


@every_family
def test_greedy_is_transformers_generate(family, policies):
    policy = policies[family]
    prompts, banned = mixed(policy), (~policies[family].allowed).nonzero()[:, 0].tolist()
    for prompt, ours in zip(prompts, generate(policy, prompts, max_new_tokens=12)):
        theirs = policy.model.generate(**plain_inputs(policy, prompt), max_new_tokens=12, do_sample=False,
                                       suppress_tokens=banned)
        assert theirs[0, len(prompt):].tolist() == ours.ids.tolist()


@every_family
def test_positions_are_the_models_own(family, policies):
    "Those that the model would compute for the same tokens, and consecutive ones where it has no rule for images."
    policy = policies[family]
    for prompt in mixed(policy):
        if family == "llava_next": assert prompt.positions.tolist() == [list(range(len(prompt)))]; continue
        inputs = plain_inputs(policy, prompt)
        own = (policy.model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"],
                                                 image_grid_thw=inputs.get("image_grid_thw"))[0] if prompt.images
               else torch.arange(len(prompt)).expand(3, 1, -1))
        assert (torch.from_numpy(prompt.positions) == own[:, 0]).all()


@every_family
def test_the_prompt_is_the_processors(family, policies):
    ("Token for token what `apply_chat_template` makes of the messages in one go: beginnings are not doubled, "
     "image tokens not lost.")
    policy = policies[family]
    for prompt, words in zip(mixed(policy)[:2], ("Which?", "Are these the same number?")):
        parts = [dict(role="user",
                      content=[dict(type="image", image=i) for i in prompt.images] + [dict(type="text", text=words)])]
        theirs = policy.processor.apply_chat_template(parts, add_generation_prompt=True, tokenize=True,
                                                      return_dict=True, return_tensors="pt")
        assert theirs["input_ids"][0].tolist() == prompt.ids.tolist()
    as_string = policy.encode([dict(role="user", content="The target?")])
    assert as_string.ids.tolist() == policy.encode(ask("The target?")).ids.tolist()
    assert "target" in policy.decode(as_string.ids)
    assert (policy.tokenizer.bos_token_id is not None) == (family == "llava_next")
    if family == "llava_next": assert (as_string.ids == policy.tokenizer.bos_token_id).sum() == 1


@every_family
def test_activation_checkpointing_changes_nothing(family, folders):
    policy = VLMPolicy.load(folders[family], device="cpu", parts="all")
    prompts, responses = mixed(policy)[:4], [policy.answer_ids("The target is 3.")] * 4
    def gradient():
        policy.zero_grad()
        (-policy.score(prompts, responses).logprobs.sum()).backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    one = gradient()
    policy.checkpoint_activations()
    two = gradient()
    assert one.abs().max() > 0 and (one - two).abs().max() < 1e-4 * one.abs().max()


@every_family
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_backends_agree(family, attention, folders, policies):
    policy = VLMPolicy.load(folders[family], device="cpu", attention=attention)
    assert policy.config._attn_implementation == attention
    prompts = mixed(policy)
    with torch.no_grad():
        ours, theirs = (p.score(prompts, [np.arange(20, 26)] * 5).logprobs for p in (policy, policies[family]))
    assert (ours - theirs).abs().max() < 1e-4


# --- features ---

@every_family
def test_remembered_features_change_nothing(family, policies, monkeypatch):
    policy = policies[family]
    prompts, responses = mixed(policy), [np.arange(20, 30)] * 5
    def scored():
        with torch.no_grad(): return policy.score(prompts, responses).logprobs
    policy._features.clear(); policy._features.used = 0
    fresh, towers = scored(), []
    monkeypatch.setattr(type(policy.base.model), "get_image_features", lambda *a, **k: towers.append(1))
    remembered = scored()
    assert not towers and (fresh - remembered).abs().max() < 1e-5
    one = torch.stack([policy.score([p], [r]).logprobs[0].detach() for p, r in zip(prompts, responses)])
    assert (one - remembered).abs().max() < 1e-4


def test_deepstack_features_are_remembered_too(policies):
    "Without them Qwen3-VL says something else."
    policy = policies["qwen3_vl"]
    prompt = policy.encode(ask("Which?", 1), [SQUARE])
    policy._features.clear(); policy._features.used = 0
    [features] = policy.image_features([prompt])
    assert features.shape == (16, 2, 128)      # tokens, the tower's output and one deeper layer, width
    with torch.no_grad(): before = policy.score([prompt], [np.arange(20, 30)]).logprobs
    policy._features[prompt.keys[0]] = torch.stack([features[:, 0], torch.zeros_like(features[:, 1])], 1)
    with torch.no_grad(): after = policy.score([prompt], [np.arange(20, 30)]).logprobs
    policy._features.clear(); policy._features.used = 0
    assert (before - after).abs().max() > 1e-3


@every_family
def test_what_learns_is_not_remembered(family, folders):
    policy = VLMPolicy.load(folders[family], device="cpu", parts="language+merger")
    prompt, answer = policy.encode(ask("Which?", 1), [SQUARE]), [np.arange(20, 30)]
    with torch.no_grad(): before = policy.score([prompt], answer).logprobs
    assert not policy._features
    for name, p in policy.model.named_parameters():
        if part_of(name) == "merger" and p.ndim == 2: p.data.mul_(1.5)
    with torch.no_grad(): assert (policy.score([prompt], answer).logprobs - before).abs().max() > 1e-3


# --- parts ---

PLACES = dict(   # where each part of a family is, said by hand: (beginning of the name, part)
    qwen2_vl=[("model.visual.merger.", "merger"), ("model.visual.", "vision"), ("", "language")],
    qwen2_5_vl=[("model.visual.merger.", "merger"), ("model.visual.", "vision"), ("", "language")],
    qwen3_vl=[("model.visual.merger.", "merger"), ("model.visual.deepstack_merger_list.", "merger"),
              ("model.visual.", "vision"), ("", "language")],
    llava_next=[("model.multi_modal_projector.", "merger"), ("model.image_newline", "merger"),
                ("model.vision_tower.", "vision"), ("", "language")])

@every_family
def test_every_parameter_has_its_part(family, policies):
    names = [n for n, _ in policies[family].model.named_parameters()]
    for name in names:
        assert part_of(name) == next(part for start, part in PLACES[family] if name.startswith(start)), name
    assert all(any(n.startswith(start) for n in names) for start, _ in PLACES[family])


@every_family
@pytest.mark.parametrize("parts, expected", [("language", {"language"}), ("language+merger", {"language", "merger"}),
                                             ("all", {"language", "merger", "vision"})])
def test_adapters_and_weights_learn_exactly_where_they_are_asked(family, parts, expected, folders):
    adapted = VLMPolicy.load(folders[family], lora=LoRAConfig(r=2, parts=parts), device="cpu")
    learn = {n for n, p in adapted.model.named_parameters() if p.requires_grad}
    assert all("lora_" in n for n in learn) and {part_of(n) for n in learn} == expected
    linear = {n for n, m in adapted.base.named_modules() if n.endswith("base_layer") and isinstance(m, torch.nn.Linear)}
    whole = VLMPolicy.load(folders[family], parts=parts, device="cpu")
    unread = [n for n, _ in whole.model.named_parameters()
              if family == "llava_next" and ("layers.2." in n and "vision_tower" in n or "post_layernorm" in n)]
    layers = {n for n, m in whole.model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
              and part_of(n) in expected and not any(u.startswith(n + ".") for u in unread)}
    assert {n.removesuffix(".base_layer") for n in linear} == layers
    assert ({n for n, p in whole.model.named_parameters() if p.requires_grad}
            == {n for n, _ in whole.model.named_parameters() if part_of(n) in expected} - set(unread))
    prompts = mixed(whole)
    for policy in (adapted, whole):      # and each of them gets a gradient: nothing is idle
        for n, p in policy.model.named_parameters():
            if "lora_B" in n: p.data.normal_(std=0.1)
        policy.zero_grad(); policy.score(prompts, [np.arange(20, 30)] * 5).logprobs.sum().backward()
        assert [n for n, p in policy.model.named_parameters() if p.requires_grad and p.grad is None] == []


# --- save, load, merge ---

@every_family
def test_adapter_and_heads_come_back_and_survive_a_merge(family, folders, tmp_path):
    from rl4vlm.merge import merge_adapter
    policy = VLMPolicy.load(folders[family], lora=LoRAConfig(r=2, parts="all"), device="cpu", dtype="float32")
    with torch.no_grad():
        for n, p in policy.model.named_parameters():
            if "lora_B" in n: p.normal_(std=0.05)
        torch.nn.init.normal_(policy.value_head[-1].weight, std=0.1); policy.value_scale.fill_(3.0)
        policy.add_temperature_head(2.0); policy.temperature_head.bias.fill_(0.3)
    policy.save(tmp_path/"adapter")
    merge_adapter(tmp_path/"adapter", tmp_path/"merged")
    prompts, responses = mixed(policy), [np.arange(20, 30)] * 5
    def said(p):
        with torch.no_grad(): s = p.score(prompts, responses)
        return torch.cat([s.logprobs.flatten(), s.values, s.temperatures])
    first, base = said(policy), said(VLMPolicy.load(folders[family], device="cpu"))
    assert (first - base).abs().max() > 0.01
    for name in ("adapter", "merged"):
        assert (said(VLMPolicy.load(tmp_path/name, heads="required", device="cpu")) - first).abs().max() < 1e-4
    (tmp_path/"adapter"/"heads.safetensors").unlink()
    with pytest.raises(UsageError, match="saved without its value head"):
        VLMPolicy.load(tmp_path/"adapter", heads="required", device="cpu")
    VLMPolicy.load(tmp_path/"adapter", device="cpu")


@every_family
def test_a_limit_on_pixels_travels_with_the_adapter(family, folders, tmp_path):
    limit = 56 * 112
    policy = VLMPolicy.load(folders[family], lora=LoRAConfig(r=2), device="cpu", max_pixels=limit)
    tokens = lambda p: int((p.encode(ask("Which?", 1), [SQUARE]).ids == p.config.image_token_id).sum())
    assert tokens(policy) < tokens(VLMPolicy.load(folders[family], device="cpu"))
    policy.save(tmp_path)
    again = VLMPolicy.load(tmp_path, device="cpu")
    assert tokens(again) == tokens(policy)
    generate(again, mixed(again), max_new_tokens=2)
    with pytest.raises(UsageError, match="max_pixels=100 is less than"): load_vlm(str(folders[family]), max_pixels=100)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.startswith("qwen")])
def test_images_are_resized_as_qwen_vl_utils_does(family, policies):
    """The processor of the checkpoint resizes; its sizes are those of the rule in qwen-vl-utils.

    Where a very flat image is to be made smaller, that rule rounds the short side down to nothing; the processor keeps
    a token."""
    from qwen_vl_utils.vision_process import smart_resize
    images = policies[family].processor.image_processor
    for height, width in RNG.integers(200, 800, (200, 2)):
        h, w = smart_resize(int(height), int(width), images.patch_size * images.merge_size,
                            images.size["shortest_edge"], images.size["longest_edge"])
        patches = images.get_number_of_image_patches(int(height), int(width))
        assert patches == h // images.patch_size * (w // images.patch_size)


# --- learning ---

@every_family
def test_fine_tuning_counts_the_answer_and_nothing_else(family, folders, tmp_path):
    "The loss of a batch is that of the answers' tokens under the plain model; 25 steps lower it."
    from rl4vlm.sft import Collator, train_sft
    policy = VLMPolicy.load(folders[family], device="cpu")
    rows = [dict(messages=ask(words, len(images)) + [dict(role="assistant", content=answer)], images=images)
            for words, images, answer in (("Which?", [SQUARE], "The target is 3."), ("The target?", [], "4"),
                                          ("Are these the same number?", [WIDE, TALL], "The current number is 1."))]
    batch = Collator(policy)(rows)
    assert [policy.decode(r) for r in batch["responses"]] == [r["messages"][-1]["content"] for r in rows]
    assert all(r[-1] == policy.end_id for r in batch["responses"])
    with torch.no_grad():
        scores = policy(**batch)
        each = [plain_logprobs(policy, p, r) for p, r in zip(batch["prompts"], batch["responses"])]
    assert scores.mask.sum(1).tolist() == [len(r) for r in batch["responses"]]
    loss = -torch.cat(each).mean()
    assert abs(-scores.logprobs.sum() / scores.mask.sum() - loss) < 1e-4
    train_sft(rows * 4, policy, SFTConfig(steps=25, optim=dict(batch_size=6)), tmp_path)
    with torch.no_grad(): after = policy(**batch)
    assert -after.logprobs.sum() / after.mask.sum() < loss / 2


@every_family
def test_an_update_by_reinforcement(family, folders):
    "Play, advantages, update: one update, in which sampled and recomputed log-probabilities agree (else it stops)."
    from rl4vlm.config import PPOConfig
    from rl4vlm.ppo import PPO
    from rl4vlm.tasks import make_task
    policy = VLMPolicy.load(folders[family], lora=LoRAConfig(r=2), device="cpu")
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    ppo = PPO(make_task("NumberLine"), policy, PPOConfig(rollout=dict(envs=4, steps=4),
                                                         optim=dict(epochs=1, minibatch=8, value_warmup=0, lr=1e-2),
                                                         sampling=dict(max_new_tokens=8)))
    row, _ = ppo.run_update()
    assert row["turns"] == 16 and row["logprob_gap"] < 1e-4
    moved = {n for n, p in policy.model.named_parameters() if (p != before[n]).any()}
    assert moved and all("lora_" in n for n in moved)


# --- what cannot work says so ---

def broken(folders, family, tmp_path):
    shutil.copytree(folders[family], tmp_path/"broken")
    return tmp_path/"broken"

def edit(file, **changes):
    data = json.loads(file.read_text())
    for path, value in changes.items():
        *way, last = path.split("__")
        inner = data
        for key in way: inner = inner[key]
        inner[last] = value
    file.write_text(json.dumps(data))

def refused(folder, match, **options):
    with pytest.raises(UsageError, match=match): load_vlm(str(folder), device="cpu", **options)


@every_family
def test_no_chat_template(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    (folder/"chat_template.jinja").unlink()
    refused(folder, "has no chat template")

@every_family
def test_a_template_that_loses_the_image(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    (folder/"chat_template.jinja").write_text("{% for m in messages %}{% for p in m['content'] %}{{ p['text'] if "
                                              "p['type'] == 'text' }}{% endfor %}{% endfor %}")
    refused(folder, "without one image token")

@every_family
def test_another_image_token(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    edit(folder/"config.json", **{"image_token_index" if family == "llava_next" else "image_token_id": 9})
    refused(folder, "its image token is .*, the model's is 9")

@every_family
def test_a_processor_of_another_model(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    edit(folder/"processor_config.json",
         **({"patch_size": 14} if family == "llava_next" else {"image_processor__merge_size": 4}))
    refused(folder, "patch_size is 14 in the processor" if family == "llava_next"
            else "merge_size is 4 in the processor")

def test_llava_shapes_that_the_model_does_not_know(folders, tmp_path):
    folder = broken(folders, "llava_next", tmp_path)
    edit(folder/"processor_config.json", image_processor__image_grid_pinpoints=[[56, 112], [168, 168]])
    refused(folder, "image_grid_pinpoints is")

@every_family
def test_a_tokenizer_that_is_too_large(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    edit(folder/"config.json", text_config__vocab_size=100)
    refused(folder, "its tokenizer has .* tokens, the model 100")

@every_family
def test_no_image_processor(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    (folder/"processor_config.json").unlink()
    refused(folder, "no image processor|no processor that can be loaded")

@every_family
def test_images_and_places_must_agree(family, policies):
    with pytest.raises(UsageError, match="1 image places but 2 images"):
        policies[family].encode(ask("Which?", 1), [SQUARE, SMALL])

@pytest.mark.parametrize("family", [f for f in FAMILIES if f.startswith("qwen")])
def test_a_image_that_is_a_line(family, policies):
    with pytest.raises(UsageError, match="refuses images of 2×900 pixels"):
        policies[family].encode(ask("Which?", 1), [np.zeros((2, 900, 3), np.uint8)])

@every_family
def test_more_than_the_model_can_read(family, folders, tmp_path):
    folder = broken(folders, family, tmp_path)
    edit(folder/"config.json", text_config__max_position_embeddings=40)
    policy = VLMPolicy.load(folder, device="cpu")
    with pytest.raises(UsageError, match=r"for 3 image\(s\) of 150×300, 300×300 pixels is too long for this model, "
                                         r"which reads 40: lower --loading.max_pixels"):
        policy.encode(ask("Which?", 3), [SQUARE, SQUARE, WIDE])
    with pytest.raises(UsageError, match="a prompt of .* tokens is too long"):
        policy.encode(ask("one two three four five six seven eight nine ten " * 5))
    prompt = policy.encode(ask("Which?"))
    with pytest.raises(UsageError, match="and an answer of 40 is too long"):
        generate(policy, [prompt], max_new_tokens=40)
    with pytest.raises(UsageError, match="and an answer of 40 is too long"): policy.score([prompt], [np.full(40, 20)])
    generate(policy, [prompt], max_new_tokens=2)

def test_a_template_that_refuses_a_role(folders, tmp_path):
    folder = broken(folders, "llava_next", tmp_path)
    file = folder/"chat_template.jinja"
    file.write_text("{% if messages[0]['role'] == 'system' %}{{ raise_exception('Only user and assistant roles are "
                    "supported!') }}{% endif %}" + file.read_text())
    with pytest.raises(UsageError, match="refuses messages of roles system, user: Only user"):
        VLMPolicy.load(folder, device="cpu").encode([dict(role="system", content="Be brief."), *ask("Which?")])

def test_attention_that_is_not_there(folders, monkeypatch):
    refused(folders["qwen2_vl"], "attention=flash_attention_2 cannot be used here", attention="flash_attention_2")


# --- fewer bits ---

def test_quantised_without_bitsandbytes(folders, monkeypatch):
    import rl4vlm.models
    monkeypatch.setattr(rl4vlm.models, "find_spec", lambda name: None)
    refused(folders["qwen2_5_vl"], r"needs bitsandbytes, which is not installed: pip install .*\[quant\]", quant="4bit")
    refused(folders["qwen2_5_vl"], "must be none, 4bit or 8bit", quant="2bit")


@every_family
@pytest.mark.parametrize("quant", ["4bit", "8bit"])
def test_quantised(family, quant, folders, policies, tmp_path):
    "The language layers are rounded and nothing else; an adapter learns on top; log-probabilities move a little."
    bitsandbytes = pytest.importorskip("bitsandbytes")
    kinds = bitsandbytes.nn.Linear4bit if quant == "4bit" else bitsandbytes.nn.Linear8bitLt
    policy = VLMPolicy.load(folders[family], lora=LoRAConfig(r=2), device="cpu", dtype="float32", quant=quant)
    rounded = {n.removesuffix(".base_layer") for n, m in policy.base.named_modules() if isinstance(m, kinds)}
    assert rounded and rounded == {n for n, m in policies[family].base.named_modules()
                                   if isinstance(m, torch.nn.Linear) and part_of(n) == "language" and n != "lm_head"}
    prompts, responses = mixed(policy), [np.arange(20, 30)] * 5
    scores = policy.score(prompts, responses)
    with torch.no_grad(): gap = (scores.logprobs - policies[family].score(prompts, responses).logprobs).abs().max()
    assert 0 < gap < 5
    scores.logprobs.sum().backward()
    assert all(p.grad is not None for n, p in policy.model.named_parameters() if p.requires_grad)
    policy.save(tmp_path)
    again = VLMPolicy.load(tmp_path, device="cpu", dtype="float32", quant=quant, heads="required")
    with torch.no_grad():
        # with gradients and without, before and after
        gap = max((p.score(prompts, responses).logprobs - scores.logprobs).abs().max() for p in (policy, again))
    assert gap < 1e-4
    answers = generate(policy, prompts, max_new_tokens=8, seeds=range(5))
    with torch.no_grad(): recomputed = policy.score(prompts, [a.ids for a in answers])
    # 8 bits round activations too, and how depends on the batch
    assert max(np.abs(recomputed.logprobs[i][recomputed.mask[i]].numpy() - a.logprobs).max()
               for i, a in enumerate(answers)) < (1e-4 if quant == "4bit" else 0.1)
    frozen, _ = load_vlm(str(folders[family]), device="cpu", quant=quant)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_nothing_would_learn(folders):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UsageError, match="learns by an adapter only; give --lora.r 16"):
        VLMPolicy.from_config(SFTConfig(loading=dict(quantization="8bit", dtype="float32")), str(folders["qwen2_5_vl"]))


# --- the commands ---

def test_the_preset_of_llava_runs(folders, rl4vlm, tmp_path):
    "scripts/configs/ppo/numberline_llava.yaml, made small: adapters on all parts, one update."
    from pathlib import Path
    preset = Path(__file__).resolve().parent.parent/"scripts/configs/ppo/numberline_llava.yaml"
    rl4vlm("ppo", "--config", preset, "--model", folders["llava_next"], "--out", "run", "--updates=1",
           "--rollout.envs=2", "--rollout.steps=2", "--optim.epochs=1", "--optim.minibatch=4", "--optim.microbatches=2",
           "--sampling.max_new_tokens=4", "--lora.r=2", "--optim.value_warmup=0")
    best = VLMPolicy.load(tmp_path/"run"/"ppo"/"best", heads="required", device="cpu")
    assert {part_of(n) for n, p in best.model.named_parameters() if p.requires_grad} == {"language", "merger", "vision"}


def test_a_tiny_model_by_its_family():
    from rl4vlm.tiny import resolve_model
    with pytest.raises(UsageError, match="no tiny model of family 'qwen3'; did you mean 'qwen3_"):
        resolve_model("tiny:qwen3")
