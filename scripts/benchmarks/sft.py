"""fine-tuning on rows of mixed lengths, with and without grouping

One epoch of `train_sft` over rows of 20 to 400 tokens, half of them with an image: batches by chance, by modality, by
modality and length. And the loss after it, on other rows: grouping may change the order of the rows, not what is
learned."""
import tempfile
import time
from pathlib import Path
import numpy as np
import torch
from measure import ratio, table, verdict
from rl4vlm.config import SFTConfig
from rl4vlm.core import seed_everything
from rl4vlm.policy import VLMPolicy
from rl4vlm.sft import train_sft, validation_loss
from rl4vlm.tiny import build_tiny

TITLE = "Fine-tuning"
WORDS = "the target is larger than the current number so one must be added".split()


def mixed_rows(count, seed=0):
    "Conversations of very different lengths; most are short, as in data that people have."
    random = np.random.default_rng(seed)
    def row(i):
        length, digit = int(np.exp(random.uniform(np.log(20), np.log(400)))), int(random.integers(10))
        content = [dict(type="image")] * (i % 2) + [dict(type="text",
                                                         text=f"{digit}? " + " ".join(random.choice(WORDS, length)))]
        return dict(
            messages=[dict(role="user", content=content), dict(role="assistant", content=f'{{"number": {digit}}}')],
            images=[random.integers(0, 255, (112, 112, 3), dtype=np.uint8)] * (i % 2))
    return [row(i) for i in range(count)]


def epoch(base, rows, aside, group, device, batch=8):
    "Processor seconds (on a GPU: wall seconds) of an epoch, rows per second, and the loss on other rows after it."
    seed_everything(0)
    policy, clock = VLMPolicy.load(base, device=device), time.perf_counter if device != "cpu" else time.process_time
    steps = len(rows) // batch
    with tempfile.TemporaryDirectory() as folder:
        start = clock()
        train_sft(rows, policy, SFTConfig(steps=steps, optim=dict(batch_size=batch, lr=1e-3), rows=dict(group=group),
                                          run=dict(save_every=10**6)), folder)
        seconds = clock() - start
    return seconds, validation_loss(policy, aside)


def run(options):
    "The section of the report."
    torch.set_num_threads(1)
    rows, aside = mixed_rows(480), mixed_rows(96, seed=1)
    names = {"": "by chance", "modality": "by modality", "length": "by modality and length"}
    with tempfile.TemporaryDirectory() as folder:
        base = build_tiny(Path(folder)/"base",
                          texts=[p["text"] for r in rows for p in r["messages"][0]["content"] if p["type"] == "text"]
                          + [r["messages"][1]["content"] for r in rows])
        found = {
            group: [epoch(base, rows, aside, group, options.device) for _ in range(max(1, min(options.repeats, 3)))]
            for group in names}
    best = {group: (min(s for s, _ in rounds), rounds[0][1]) for group, rounds in found.items()}
    lines = [[names[g], f"{len(rows) / s:.3g} /s", ratio(best[""][0] / s),
              verdict(best[""][0] / s, 1.3) if g == "length" else "", f"{loss:.3f}"] for g, (s, loss) in best.items()]
    return (f"{len(rows)} rows of 20 to 400 words, half with an image, batches of 8, a tiny Qwen2.5-VL, "
            f"one thread{'; processor time' if options.device == 'cpu' else ''}.\n\n"
            + table(["batches", "rows", "ratio", "target", "loss on other rows after the epoch"], lines))
