"""memory of an update and of a rollout

What scoring answers over a vocabulary of 151 936 adds to the peak of an update, for prompts of different lengths; and
what a rollout keeps for a turn."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from iteration import base_model
from measure import table

TITLE = "Memory"
VOCABULARY, ANSWER, SEQUENCES, PROMPTS = 151_936, 100, 4, (128, 1536)
LIMIT = 200   # MB a sequence

ONE_UPDATE = """
import gc, json, re, sys
import numpy as np, torch
from rl4vlm.config import LoRAConfig
from rl4vlm.policy import VLMPolicy
from rl4vlm.types import EncodedPrompt
base, prompt, answer, sequences, entropy = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
policy = VLMPolicy.load(base, device="cpu", lora=LoRAConfig(r=8))
random = np.random.default_rng(0)
axes = 3 if hasattr(policy.base.model, "get_rope_index") else 1
ids = random.integers(10, 200, (sequences, prompt))
prompts = [EncodedPrompt(row, np.tile(np.arange(prompt), (axes, 1)), [], ()) for row in ids]
answers = list(random.integers(10, 200, (sequences, answer)))
def memory(what): return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**10
def peak(call):
    gc.collect(); open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS"); call()
    return memory("VmHWM") - before
def body(): policy.response_states(prompts, answers)[0].sum().backward()
def whole():
    scores = policy.score(prompts, answers, entropy=bool(entropy))
    (scores.logprobs.sum() + scores.entropy.sum() + scores.values.sum()).backward()
body(); whole()   # gradients and the allocator's first pages
print(json.dumps([peak(body), peak(whole)]))
"""

ROLLOUT = """
import json, sys
from rl4vlm.config import PPOConfig
from rl4vlm.policy import VLMPolicy
from rl4vlm.ppo import PPO
import torch
torch.set_num_threads(1)
config = PPOConfig(rollout=dict(envs=32, steps=8), sampling=dict(max_new_tokens=16))
ppo = PPO("NumberLine", VLMPolicy.load(sys.argv[1], device="cpu"), config)
turns = [t for segment in ppo.play() for t in segment]
shown = [i for t in turns for i in t.images]
different = {id(i): i for i in shown}
by_content = {i.tobytes() for i in shown}
tokens = sum(a.nbytes for t in turns for a in (t.prompt_ids, t.response_ids, t.logprobs))
pixels, features = ppo.policy._pixels, ppo.policy._features
cache = sum(v["pixel_values"].nbytes for v in pixels.values()) + sum(f.nbytes for f in features.values())
print(json.dumps([len(turns), sum(i.nbytes for i in different.values()), len(different), len(by_content),
                  shown[0].nbytes, str(shown[0].dtype), tokens, cache, pixels.limit + features.limit]))
ppo.player.close()
"""


def in_a_process(code, *arguments):
    "The JSON that a program prints last."
    # what is freed goes back to the system
    at_once = dict(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | at_once)
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def run(options):
    "The section of the report."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base, small = base_model(Path(folder)/"wide", VOCABULARY), base_model(Path(folder)/"small")
        for prompt, entropy in [*((p, 0) for p in PROMPTS), (PROMPTS[-1], 1)]:
            body, whole = in_a_process(ONE_UPDATE, base, prompt, ANSWER, SEQUENCES, entropy)
            added = whole - body
            rows.append([f"{prompt} tokens{', with an entropy bonus' if entropy else ''}", f"{body:.0f} MB",
                         f"{whole:.0f} MB", f"{added:.0f} MB", f"{added / SEQUENCES:.0f} MB",
                         f"{LIMIT} MB {'met' if added / SEQUENCES < LIMIT else '**missed**'}"])
        turns, images, objects, contents, one, kind, tokens, cache, limit = in_a_process(ROLLOUT, small)
    logits = ANSWER * VOCABULARY * 4 / 2**20
    return "\n\n".join([
        f"An update on {SEQUENCES} sequences with answers of {ANSWER} tokens over a vocabulary of 151 936, "
        "in a process of its own: a tiny Qwen2.5-VL with a LoRA adapter, float32.\n"
        "\"Body\" is the growth to the peak of forward and backward without the output layer: the activations. "
        f"For comparison: the logits of one such answer take {logits:.0f} MB, and a\n"
        "log-softmax with its gradient three to four times that; of prompt and answer together with "
        "1 536 tokens of prompt sixteen times that.",
        table(["prompt", "body", "with scores", "added by scores", "a sequence", "target, below"], rows),
        f"A rollout of {turns} turns of NumberLine keeps {objects} images ({contents} different ones) as {kind}, "
        f"{images / 2**20:.1f} MB, and {tokens / turns / 2**10:.1f} kB of token ids and log-probabilities a turn.\n"
        f"Pixel values and image features are in a cache of at most {limit / 2**20:.0f} MB, "
        f"here {cache / 2**20:.1f} MB, each different image once. The bound of a rollout is therefore\n"
        f"turns × (size of the images shown + 16 B a prompt and answer token) + {limit / 2**20:.0f} MB: "
        f"here at most {(turns * (one + tokens / turns) + limit) / 2**20:.0f} MB."])
