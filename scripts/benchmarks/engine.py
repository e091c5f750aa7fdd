"""sampling by a vLLM server beside this process's own, and playing while the policy learns

A tiny Qwen2.5-VL with random weights, or with `--device cuda` one of the shapes of the 3B model, and a server that the
benchmark starts itself (`rl4vlm engine install` makes its environment first). Wall time, since a server is another
process; so an idle machine is needed."""
import tempfile
import time
from pathlib import Path
import gymnasium
import torch
from iteration import base_model
from large import LARGE, make_policy
from measure import median, ratio, table
from rl4vlm.config import PPOConfig
from rl4vlm.config_parts import EngineConfig
from rl4vlm.engine import make_engine
from rl4vlm.generate import Sampler
from rl4vlm.policy import VLMPolicy
from rl4vlm.ppo import PPO
from rl4vlm.tasks import make_task
from rl4vlm.tiny import sample_frames

TITLE = "A served engine"
SLOW = 0.05   # seconds of a step of the environment
WAYS = (("in lock-step", True, 0), ("each by itself", False, 0), ("each by itself, while the policy learns", False, 1))


class SlowEnv(gymnasium.Wrapper):
    "An environment whose steps take their time, but no processor."
    def step(self, action):
        time.sleep(SLOW)
        return self.env.step(action)


class SlowLine(type(make_task("NumberLine"))):
    "NumberLine with slow steps."
    name = "NumberLine"
    def make_env(self): return SlowEnv(super().make_env())


def seconds(call, repeats):
    "Median wall time, after a first round."
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return median(found[1:])


def sampling(policy, engine, batches, length, repeats):
    "Rows of the table: tokens a second by batch."
    task, rows = make_task("NumberLine"), []
    frames = sample_frames(task, 60)
    for batch in batches:
        some = [frames[i % len(frames)] for i in range(batch)]
        prompts, seeds = [policy.encode(task.prompt(f), f.images) for f in some], list(range(batch))
        rate = lambda e: batch * length / seconds(lambda: e.generate(prompts, seeds, max_new_tokens=length), repeats)
        own, served = rate(Sampler(policy)), rate(engine)
        rows.append([f"{batch} prompts", f"{own:,.0f} /s", f"{served:,.0f} /s", ratio(served / own)])
    return rows


def playing(policy, engine, length, updates, **options):
    "Turns a second of whole updates, and the median seconds that an update waits for its rollout and learns."
    config = PPOConfig(rollout=dict(envs=8, steps=8), optim=dict(minibatch=32, epochs=2), updates=updates,
                       sampling=dict(max_new_tokens=length), loss=dict(mismatch_clip_max=2.0),
                       engine=dict(kind="vllm", **options))
    ppo, rows = PPO(SlowLine(), policy, config, engine=engine), []
    if engine.lock_step: ppo.actor.served = False
    try:
        while ppo.step < updates:
            start = time.perf_counter()
            row, timing = ppo.run_update()
            rows.append((time.perf_counter() - start, timing["rollout_s"], timing["update_s"], row["turns"]))
    finally: ppo.close()
    took, waited, learned, turns = zip(*rows[1:])   # the first one warms up
    return sum(turns) / sum(took), median(waited), median(learned)


def run(options):
    "The section of the report."
    large = options.device.startswith("cuda")
    batches, length = ((1, 64, 256), 100) if large else ((1, 16, 64), 24)
    with tempfile.TemporaryDirectory() as top:
        base = Path(top)/"base"
        if large:
            made = make_policy(LARGE, torch.device(options.device))
            made.model.get_base_model().save_pretrained(base)
            made.processor.save_pretrained(base)
        else: base_model(base)
        policy = VLMPolicy.load(base, device=options.device, dtype="bfloat16" if large else "float32")
        policy.forbid(policy.end_id)   # all answers have full length
        policy.eval().disable_dropout()
        engine = make_engine(EngineConfig(kind="vllm"), policy, str(base), Path(top)/"run")
        try:
            drawn = sampling(policy, engine, batches, length, min(options.repeats, 3))
            played = []
            for name, engine.lock_step, stale in WAYS:
                played.append((name, *playing(policy, engine, length, 3 + options.repeats, max_staleness=stale)))
        finally: engine.close()
    model = "Shapes of the 3B model" if large else "Tiny model"
    head = ["environments play", "turns", "waits for its rollout", "learns", "ratio"]
    rows = [[name, f"{rate:.1f} /s", f"{waited:.2f} s", f"{learned:.2f} s", ratio(rate / played[0][1])]
            for name, rate, waited, learned in played]
    return "\n\n".join([
        f"{model}, random weights, answers of {length} tokens, one image a prompt; tokens a second:",
        table(["", "own sampler", "vLLM", "ratio"], drawn),
        f"PPO with vLLM, 8 environments whose steps take {1000 * SLOW:.0f} ms, 64 turns an update, "
        "weights handed over after each:", table(head, rows)])
