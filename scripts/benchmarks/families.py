"""Families read as batches with a cache against the plain path, each row by itself; and what measuring signals costs.

The same tiny model answers 16 prompts of NumberLine with 24 tokens each, greedily, and scores its answers with
gradients. Processor time, the best of some rounds in which the two sides take turns.
"""
import tempfile
import time
from pathlib import Path

TITLE = "Model families"
FAMILIES = ("qwen2_5_vl", "smolvlm", "gemma3", "qwen3_5", "internvl", "llava_onevision", "mistral3")


def best(repeats, *calls):
    "The least processor time of each call, which take turns."
    found = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(found, calls):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return [min(times) for times in found]


def paths(folder, device, repeats):
    "(sampling plain, fast; scoring plain, fast) in seconds."
    from rl4vlm.generate import generate
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import sample_frames
    task = make_task("NumberLine")
    frames = sample_frames(task, 40)[:16]
    sides = []
    for plain in (True, False):
        policy = VLMPolicy.load(folder, device=device, dtype="float32")
        policy.plain = plain
        policy.forbid(policy.end_id)   # all answers are equally long
        prompts = [policy.encode(task.prompt(f), f.images) for f in frames]
        sides.append((policy, prompts, [a.ids for a in generate(policy, prompts, 24)]))

    def sample(side): return lambda: generate(side[0], side[1], 24)
    def learn(side): return lambda: side[0].score(side[1], side[2]).logprobs.sum().backward()
    return [*best(repeats, *map(sample, sides)), *best(repeats, *map(learn, sides))]


def signals(folder, repeats):
    "(an update, its signals) in seconds."
    from rl4vlm.config import PPOConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.ppo import PPO
    config = PPOConfig(task="NumberLine", rollout=dict(envs=32, steps=8), sampling=dict(max_new_tokens=40),
                       trainable="language")
    ppo = PPO("NumberLine", VLMPolicy.load(folder, device="cpu", dtype="float32"), config)
    ppo.step = 1
    segments = ppo.play()
    batch, _ = ppo.compute_advantages(segments)
    turns = [t for row in zip(*segments) for t in row]
    return best(repeats, lambda: ppo.update(ppo.teaching(batch)), lambda: ppo.signals(batch, turns))


def run(options):
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    task = make_task("NumberLine")
    texts = frame_texts(task, sample_frames(task, 20))
    lines = ["| family | sampling, plain | sampling, batched | ratio | scoring, plain | scoring, batched | ratio |",
             "| --- " + "| ---: " * 6 + "|"]
    with tempfile.TemporaryDirectory() as top:
        for family in FAMILIES:
            folder = build_tiny(Path(top)/family, family, texts)
            a, b, c, d = paths(folder, options.device, options.repeats)
            lines.append(f"| {family} | {a:.2f} s | {b:.2f} s | {a / b:.0f}× | {c:.2f} s | {d:.2f} s | {c / d:.1f}× |")
        whole, part = signals(Path(top)/"qwen2_5_vl", options.repeats)
    lines += ["", f"Signals of a batch of 256 turns, measured at each validation: {part:.2f} s, "
              f"{100 * part / whole:.0f} % of the learning of an update "
              f"({whole:.2f} s, PPO's default options, answers of 40 tokens)."]
    return "\n".join(lines)
