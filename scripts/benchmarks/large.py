"""decoding and updates of a large model beside the machine's limits

With `--device cuda`: Qwen2.5-VL with the shapes of the 3B model, random weights, bfloat16. On a CPU the same at a small
size, to try the command. Decoding is held against a large copy (each step must read weights and cache), a LoRA update
against a large product."""
import itertools
import re
import tempfile
import time
from pathlib import Path
import numpy as np
import torch
from iteration import base_model
from measure import median, table
from rl4vlm.config import LoRAConfig
from rl4vlm.generate import cache_bytes, generate
from rl4vlm.models import add_lora
from rl4vlm.policy import VLMPolicy
from rl4vlm.static_cache import StaticCaches
from rl4vlm.types import EncodedPrompt

TITLE = "A large model beside the limits"
LARGE = dict(text=dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
                       num_key_value_heads=2, vocab_size=151_936, max_position_embeddings=32768,
                       rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24])),
             vision=dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16,
                         out_hidden_size=2048, window_size=112, fullatt_block_indexes=[7, 15, 23, 31]),
             prompt=450, answer=100, batches=(1, 64, 256), update=16, copy=2**31, product=8192)
SMALL = dict(text={}, vision={}, prompt=64, answer=16, batches=(1, 4, 8), update=4, copy=2**26, product=512)


def make_policy(size, device):
    "A policy with random weights on the device, and an adapter."
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    with tempfile.TemporaryDirectory() as folder:
        base = base_model(Path(folder)/"base")
        config, processor = (AutoConfig.from_pretrained(base, trust_remote_code=False),
                             AutoProcessor.from_pretrained(base, trust_remote_code=False))
    for part, values in ((config.text_config, size["text"]), (config.vision_config, size["vision"])):
        for name, value in values.items(): setattr(part, name, value)
    if hasattr(config.text_config, "layer_types"):
        config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False, dtype=torch.bfloat16
                                                        if device.type == "cuda" else torch.float32)
    policy = VLMPolicy(add_lora(model, LoRAConfig(r=16)), processor)
    policy.forbid(policy.end_id)   # all answers have full length
    return policy.eval()


def prompts_of(policy, count, length):
    "Different prompts of random tokens."
    random = np.random.default_rng(0)
    return [EncodedPrompt(ids, np.tile(np.arange(length), (3, 1)), [], ())
            for ids in random.integers(10, 200, (count, length))]


def seconds(call, device, repeats):
    "Median wall time, everything done."
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    found = []
    for _ in range(repeats + 1):
        wait(); start = time.perf_counter(); call(); wait(); found.append(time.perf_counter() - start)
    return median(found[1:])


def limits(size, device, dtype, repeats):
    "Bytes a second of a large copy, read and written, and operations a second of a large product."
    a = torch.empty(size["copy"] // dtype.itemsize, dtype=dtype, device=device); b = torch.empty_like(a)
    copy = 2 * size["copy"] / seconds(lambda: b.copy_(a), device, repeats)
    n = size["product"]
    x, y = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    return copy, 2 * n**3 / seconds(lambda: x @ y, device, repeats)


def peak(device):
    "Largest memory of this process on the device, in GB."
    if device.type == "cuda": return torch.cuda.max_memory_allocated(device) / 2**30
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def weights(policy):
    "Parameters of the language model's layers, and of the output layer."
    body = sum(p.numel() for n, p in policy.model.named_parameters()
               if "language_model" in n and "lora" not in n and "embed_tokens" not in n)
    return body, policy.model.get_output_embeddings().weight.numel()


def aim(size, share, least):
    "Whether an aim is met; they are for the large model."
    return "" if size is not LARGE else f"{least:.0%} {'met' if share >= least else '**missed**'}"


def decoding(policy, size, copy, repeats):
    "Rows of the table: tokens a second at each batch, beside what reading weights and cache allows."
    body, head = weights(policy)
    item, rows = policy.model.dtype.itemsize, []
    for fixed, batch in itertools.product((None, StaticCaches(policy)), size["batches"]):
        policy.static_cache = fixed
        prompts, seeds = prompts_of(policy, batch, size["prompt"]), list(range(batch))
        write = lambda n: seconds(lambda: generate(policy, prompts, n, seeds=seeds), policy.device, repeats)
        step = (write(size["answer"]) - write(1)) / (size["answer"] - 1)
        cache = cache_bytes(policy.config, batch * (size["prompt"] + size["answer"] // 2), item)
        most = copy / ((body + head) * item + cache)                       # steps a second
        rows.append([f"decode, {batch} rows" + ", compiled" * bool(fixed), f"{batch / step:,.0f} /s",
                     f"{batch * most:,.0f} /s", f"{1 / step / most:.0%}", aim(size, 1 / step / most, 0.5),
                     f"{peak(policy.device):.1f} GB"])
    policy.static_cache = None
    return rows


def updating(policy, size, product, repeats):
    "The row of a LoRA update: tokens of prompts and answers a second, beside what the arithmetic allows."
    body, head = weights(policy)
    prompts = prompts_of(policy, size["update"], size["prompt"])
    answers = list(np.random.default_rng(1).integers(10, 200, (size["update"], size["answer"])))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-5)
    def update():
        scores = policy.score(prompts, answers, entropy=False)
        (scores.logprobs.mean() + scores.values.mean()).backward(); optimizer.step(); optimizer.zero_grad()
    took, tokens = seconds(update, policy.device, repeats), size["update"] * (size["prompt"] + size["answer"])
    # forward, and the gradient of the states; the weights are frozen
    operations = 4 * (body * tokens + head * size["update"] * size["answer"])
    most = tokens * product / operations
    return [f"LoRA update, {size['update']} turns", f"{tokens / took:,.0f} /s", f"{most:,.0f} /s",
            f"{tokens / took / most:.0%}", aim(size, tokens / took / most, 0.45), f"{peak(policy.device):.1f} GB"]


def run(options):
    "The section of the report."
    device = torch.device(options.device)
    size = LARGE if device.type == "cuda" else SMALL
    if device.type == "cpu": torch.set_num_threads(1)
    policy = make_policy(size, device)
    copy, product = limits(size, device, policy.model.dtype, options.repeats)
    rows = (decoding(policy, size, copy, min(options.repeats, 3))
            + [updating(policy, size, product, min(options.repeats, 3))])
    shape = ("the shapes of the 3B model" if size is LARGE
             else "a tiny shape (the aims are for the large one, with `--device cuda`)")
    return "\n\n".join([
        f"Qwen2.5-VL with {shape}, random weights, {str(policy.model.dtype).split('.')[1]}; "
        f"prompts of {size['prompt']} tokens, answers of {size['answer']}, wall time.\n"
        f"A large copy moves {copy / 1e9:,.0f} GB/s, a large product does {product / 1e12:,.2f} TFLOP/s.",
        table(["", "tokens", "limit", "of the limit", "aim", "peak memory"], rows)])
