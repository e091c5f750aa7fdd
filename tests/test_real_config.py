"""The real checkpoints, without their weights: Qwen2.5-VL-3B and a model of each other family on the meta device.

No tensor has memory there, so a model of 3.75 billion parameters takes seconds. What depends on sizes and names can be
checked: how many parameters each part has, which layers get adapters, how many tokens an image takes.
"""
import numpy as np
import pytest
import torch

# The published configuration, written out by hand; only what decides shapes and positions.
# The known sizes below check it.
QWEN_3B = dict(
    text_config=dict(vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36,
                     num_attention_heads=16, num_key_value_heads=2, max_position_embeddings=128000, rms_norm_eps=1e-6,
                     hidden_act="silu", tie_word_embeddings=True, bos_token_id=151643, eos_token_id=151645,
                     rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0, mrope_section=[16, 24, 24])),
    vision_config=dict(depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420,
                       out_hidden_size=2048, patch_size=14, spatial_merge_size=2, temporal_patch_size=2,
                       window_size=112, fullatt_block_indexes=[7, 15, 23, 31], hidden_act="silu"),
    tie_word_embeddings=True, image_token_id=151655, video_token_id=151656, vision_start_token_id=151652,
    vision_end_token_id=151653)
LANGUAGE = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj"]
VISION = ["attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


@pytest.fixture(scope="module")
def real_model():
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(**QWEN_3B), dtype=torch.bfloat16)


def test_parameters_of_each_part(real_model):
    from rl4vlm.models import part_of
    counts = {}
    for name, p in real_model.named_parameters():   # tied weights once
        assert p.device.type == "meta" and p.dtype == torch.bfloat16
        counts[part_of(name)] = counts.get(part_of(name), 0) + p.numel()
    layer = (2048 * 2048 + 2048) + 2 * (2048 * 256 + 256) + 2048 * 2048 + 3 * 2048 * 11008 + 2 * 2048
    assert counts["language"] == 151936 * 2048 + 36 * layer + 2048 == 3_085_938_688
    block = (1280 * 3840 + 3840) + (1280 * 1280 + 1280) + 3 * 1280 * 3420 + 2 * 3420 + 1280 + 2 * 1280
    merger = 1280 + (5120 * 5120 + 5120) + (5120 * 2048 + 2048)
    assert (counts["vision"], counts["merger"]) == (1280 * 3 * 2 * 14 * 14 + 32 * block, merger)
    assert round((counts["vision"] + counts["merger"]) / 1e9, 3) == 0.669 and sum(counts.values()) == 3_754_622_976
    assert real_model.get_output_embeddings().weight is real_model.get_input_embeddings().weight


@pytest.mark.parametrize("parts, merger, vision", [("language", 0, 0), ("language+merger", 2, 0), ("all", 2, 32)])
def test_adapters_go_where_they_are_asked(real_model, parts, merger, vision):
    from rl4vlm.models import lora_targets
    expected = [f"model.language_model.layers.{i}.{n}" for i in range(36) for n in LANGUAGE]
    expected += ([f"model.visual.blocks.{i}.{n}" for i in range(vision) for n in VISION]
                 + ["model.visual.merger.mlp.0", "model.visual.merger.mlp.2"][:merger])
    assert sorted(lora_targets(real_model, parts)) == sorted(expected)


def test_an_adapter_of_rank_128():
    "Parameters that learn: r (in + out) for each layer, and nothing in the vision tower."
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
    from rl4vlm.config import LoRAConfig
    from rl4vlm.models import add_lora
    with torch.device("meta"):
        model = add_lora(AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(**QWEN_3B)), LoRAConfig(r=128))
    learn = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    ends = [(2048, 2048), (2048, 256), (2048, 256), (2048, 2048), (2048, 11008), (2048, 11008), (11008, 2048)]
    assert sum(learn.values()) == 36 * sum(128 * (a + b) for a, b in ends) == 239_468_544
    assert not [n for n in learn if "visual" in n or "lora" not in n]


# --- the other families ---

def qwen_ids():
    return {k: QWEN_3B[k] for k in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}

def qwen3(hidden, layers, heads, intermediate):
    return dict(
        text_config=dict(vocab_size=151936, hidden_size=hidden, intermediate_size=intermediate,
                         num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8,
                         head_dim=128, max_position_embeddings=262144, tie_word_embeddings=True,
                         rope_parameters=dict(rope_type="default", rope_theta=5_000_000.0, mrope_section=[24, 20, 20])),
        vision_config=dict(depth=24, hidden_size=1024, num_heads=16, intermediate_size=4096,
                           out_hidden_size=hidden, patch_size=16, spatial_merge_size=2,
                           num_position_embeddings=2304, deepstack_visual_indexes=[5, 11, 17]),
        tie_word_embeddings=True, **qwen_ids())

OTHERS = {
    "Qwen2-VL-2B": ("qwen2_vl", dict(
        text_config=dict(vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                         num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=32768,
                         tie_word_embeddings=True,
                         rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0, mrope_section=[16, 24, 24])),
        vision_config=dict(depth=32, embed_dim=1280, hidden_size=1536, num_heads=16, mlp_ratio=4, patch_size=14,
                           spatial_merge_size=2), tie_word_embeddings=True, **qwen_ids())),
    "Qwen3-VL-2B": ("qwen3_vl", qwen3(2048, 28, 16, 6144)),
    "Qwen3-VL-4B": ("qwen3_vl", qwen3(2560, 36, 32, 9728)),
    "llava-v1.6-mistral-7b": ("llava_next", dict(
        text_config=dict(model_type="mistral", vocab_size=32064, hidden_size=4096, intermediate_size=14336,
                         num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                         max_position_embeddings=32768, sliding_window=None,
                         rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0)),
        vision_config=dict(model_type="clip_vision_model", hidden_size=1024, intermediate_size=4096,
                           num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14),
        tie_word_embeddings=False, image_token_index=32000,
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]))}
every_other = pytest.mark.parametrize("name", OTHERS)

@pytest.fixture(scope="module")
def others():
    from transformers import AutoConfig, AutoModelForImageTextToText
    with torch.device("meta"):
        configs = {n: AutoConfig.for_model(family, **options) for n, (family, options) in OTHERS.items()}
        return {n: AutoModelForImageTextToText.from_config(c, dtype=torch.bfloat16) for n, c in configs.items()}


PARAMETERS = {"Qwen2-VL-2B": 2_208_985_600, "Qwen3-VL-2B": 2_127_532_032, "Qwen3-VL-4B": 4_437_815_808,
              "llava-v1.6-mistral-7b": 7_566_747_648}   # of the published checkpoints

@every_other
def test_parameters_of_the_others(name, others):
    from rl4vlm.models import part_of
    assert sum(p.numel() for p in others[name].parameters()) == PARAMETERS[name]
    assert {part_of(n) for n, _ in others[name].named_parameters()} == {"language", "merger", "vision"}


# CLIP has 24 layers, the last is not read
LINEAR = {   # layers × (language, vision) and layers of the merger
    "Qwen2-VL-2B": (28, 7, 2, 32, ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]),
    "Qwen3-VL-2B": (28, 7, 2 + 3 * 2, 24, ["attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"]),
    "Qwen3-VL-4B": (36, 7, 2 + 3 * 2, 24, ["attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"]),
    "llava-v1.6-mistral-7b": (32, 7, 2, 23, ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                             "self_attn.out_proj", "mlp.fc1", "mlp.fc2"])}

@every_other
def test_adapters_of_the_others(name, others):
    from rl4vlm.models import lora_targets, part_of
    layers, linear, merger, depth, kinds = LINEAR[name]
    language = [f"model.language_model.layers.{i}.{n}" for i in range(layers) for n in LANGUAGE]
    assert sorted(lora_targets(others[name], "language")) == sorted(language)
    assert len(lora_targets(others[name], "language+merger")) == len(language) + merger
    vision = [t for t in lora_targets(others[name], "all") if part_of(t) == "vision"]
    stem = "model.vision_tower.encoder.layers" if "llava" in name else "model.visual.blocks"
    assert sorted(vision) == sorted(f"{stem}.{i}.{k}" for i in range(depth) for k in kinds)
    assert len(lora_targets(others[name], "all")) == len(language) + merger + len(vision)


# LLaVA: the whole, the image in tiles, an end for each row
TOKENS = {"Qwen2-VL-2B": 121, "Qwen3-VL-2B": 81, "Qwen3-VL-4B": 81, "llava-v1.6-mistral-7b": 576 + 24 * 24 + 24}

@every_other
def test_tokens_of_a_frame_with_the_others(name):
    ("An image of 300 × 300 pixels, through the real image processor and a vision tower of the real "
     "geometry but little width.")
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from rl4vlm import tiny
    from rl4vlm.models import check_processor
    from rl4vlm.policy import VLMPolicy
    family, options = OTHERS[name]
    model, processor = tiny.FAMILIES[family](["Which number is larger?"], 64, 1)
    if "llava" in name:
        vision = dict(options["vision_config"], hidden_size=64, intermediate_size=64, num_attention_heads=4,
                      num_hidden_layers=2)
        grid = options["image_grid_pinpoints"]
        processor.image_processor = LlavaNextImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=grid)
        processor.patch_size = 14
        config = AutoConfig.for_model(**dict(model.config.to_dict(), vision_config=vision, image_grid_pinpoints=grid))
        model = AutoModelForImageTextToText.from_config(config)
    else:
        processor.image_processor = Qwen2VLImageProcessor(
            patch_size=options["vision_config"]["patch_size"],
            size={"shortest_edge": 65536, "longest_edge": 16777216} if "Qwen3" in name else None)
    check_processor(model.config, processor, name)
    policy = VLMPolicy(model.eval(), processor)
    prompt = policy.encode(QUESTION, [FRAME])
    assert (prompt.ids == policy.config.image_token_id).sum() == TOKENS[name] == len(policy.image_features([prompt])[0])
    with torch.no_grad(): assert policy.score([prompt], [np.array([20, 21])]).logprobs.isfinite().all()


def test_memory_of_the_cache_of_the_real_model(real_model):
    "36 864 bytes a token: keys and values, 36 layers, 2 heads of 128 channels, bfloat16."
    from rl4vlm.generate import cache_bytes
    assert cache_bytes(real_model.config, 1) == 36_864


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    ("A tiny checkpoint with the vocabulary and the image processor of the real one: "
     "far more rows than the tokenizer has entries.")
    from transformers import Qwen2VLImageProcessor
    from rl4vlm.models import load_vlm
    from rl4vlm.tiny import build_tiny
    folder = build_tiny(tmp_path_factory.mktemp("wide"), texts=["Which number is larger? Answer in JSON."], width=64,
                        layers=1)
    model, processor = load_vlm(str(folder), device="cpu", dtype="float32")
    model.resize_token_embeddings(QWEN_3B["text_config"]["vocab_size"], mean_resizing=False)
    processor.image_processor = Qwen2VLImageProcessor()
    model.save_pretrained(folder); processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policy(wide):
    from rl4vlm.policy import VLMPolicy
    return VLMPolicy.load(wide, device="cpu", dtype="float32")


FRAME = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
QUESTION = [dict(role="user", content=[dict(type="image"), dict(type="text", text="Which?")])]


def test_a_frame_of_300_pixels_takes_121_tokens(policy):
    "At the default limits it is resized to 308 × 308: 22 × 22 patches, merged by 2 × 2."
    pixels = policy.pixels(FRAME, b"frame")
    assert pixels["image_grid_thw"].tolist() == [[1, 22, 22]] and pixels["pixel_values"].shape == (484, 3 * 2 * 14 * 14)
    prompt = policy.encode(QUESTION, [FRAME])
    assert (prompt.ids == policy.config.image_token_id).sum() == 121
    assert policy.image_features([prompt])[0].shape == (121, 1, 64)


def test_max_pixels_makes_it_cheaper(wide):
    from rl4vlm.policy import VLMPolicy
    small = VLMPolicy.load(wide, device="cpu", max_pixels=112 * 112 + 1)   # the image must stay below the limit
    assert (small.encode(QUESTION, [FRAME]).ids == small.config.image_token_id).sum() == 16


def test_rows_without_a_token_are_never_sampled(policy):
    "A model that wants nothing but ids which the tokenizer does not know still never writes one."
    from rl4vlm.generate import generate
    from rl4vlm.logprobs import Forbidden
    known, rows = len(policy.tokenizer), len(policy.allowed)
    assert rows == 151936 > known and not policy.allowed[known:].any()
    head, before = torch.nn.Linear(64, rows), policy.base.get_output_embeddings()
    with torch.no_grad(): head.weight.zero_(); head.bias.zero_(); head.bias[known:] = 50.0
    policy.base.set_output_embeddings(head)
    allowed, forbidden = policy.allowed, policy.forbidden
    try:
        prompt = policy.encode(QUESTION, [FRAME])
        answers = (generate(policy, [prompt] * 4, max_new_tokens=16, seeds=[1, 2, 3, 4])
                   + generate(policy, [prompt], max_new_tokens=4))
        assert max(int(a.ids.max()) for a in answers) < known
        # all allowed tokens are equally likely, and they alone share the probability
        even = -np.log(int(allowed.sum()))
        assert all(np.allclose(a.logprobs, even, atol=1e-4) for a in answers)
        with torch.no_grad(): scores = policy.score([prompt], [answers[0].ids])
        assert np.allclose(scores.logprobs[0].numpy(), answers[0].logprobs, atol=1e-5)
        policy.forbidden = Forbidden(torch.ones_like(allowed))   # and without the rule it would
        assert min(int(a.ids.min()) for a in generate(policy, [prompt], max_new_tokens=4, seeds=[1])) >= known
    finally: policy.forbidden = forbidden; policy.base.set_output_embeddings(before)


def test_the_embedding_of_the_wide_model_is_saved_and_loaded(wide):
    from rl4vlm.models import load_vlm
    model, processor = load_vlm(str(wide), device="cpu")
    assert model.get_output_embeddings().weight.shape == (151936, 64) and len(processor.tokenizer) < 1000
