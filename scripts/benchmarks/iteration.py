"""a whole iteration of PPO against a plain loop

NumberLine with an untrained tiny Qwen2.5-VL that writes until the limit: `PPO.run_update` against one environment, an
answer at a time, and turns learned from one by one. Over the small vocabulary both sides play the same number of turns
and make the same optimizer steps; over the large one the plain loop plays one turn only, and its two optimizer steps
are counted with that turn."""
import tempfile
from pathlib import Path
import numpy as np
import torch
from measure import clock_of, ratio, rounds, table, verdict
from torch.utils.flop_counter import FlopCounterMode
from rl4vlm.config import PPOConfig
from rl4vlm.env_pool import TaskEnv
from rl4vlm.policy import VLMPolicy
from rl4vlm.ppo import PPO
from rl4vlm.tasks import make_task
from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
from rl4vlm.types import PastTurn

TITLE = "A whole iteration"


def base_model(folder, vocabulary=0, width=128, layers=2, task="NumberLine"):
    "An untrained tiny Qwen2.5-VL; with more rows in its vocabulary than its tokenizer has tokens, if asked for."
    from transformers import AutoModelForImageTextToText
    task = make_task(task)
    build_tiny(folder, texts=frame_texts(task, sample_frames(task, 20)), width=width, layers=layers)
    if vocabulary:
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
        model.resize_token_embeddings(vocabulary, mean_resizing=False); model.save_pretrained(folder)
    return str(folder)


# -------------------------------------------------------------------------------------------------- the plain loop

class PlainLoop:
    "PPO as it is first written: everything one at a time, and every forward pass over everything."
    def __init__(self, task, policy, new_tokens, turns, epochs=2):
        self.task, self.policy, self.model, self.processor = make_task(task), policy, policy.model, policy.processor
        self.new_tokens, self.turns, self.epochs, self.episode = new_tokens, turns, epochs, 0
        self.env = TaskEnv(self.task)
        self.banned = [int(i) for i in policy.tokenizer.all_special_ids if i != policy.end_id]
        self.optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-5)
        self.begin()

    def begin(self):
        self.frame, self.past, self.count, self.episode = self.env.reset(self.episode), [], 0, self.episode + 1

    def evaluate(self, inputs, buffer, prompt, length):
        ("Log-probabilities of an answer, their entropy and the value, from logits at all positions of prompt "
         "and buffer.")
        ids = torch.cat([inputs["input_ids"], buffer[None]], 1)
        kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(buffer)[None]], 1)
        out = self.model(input_ids=ids, attention_mask=torch.ones_like(ids),
                         mm_token_type_ids=kinds, pixel_values=inputs["pixel_values"],
                         image_grid_thw=inputs["image_grid_thw"], output_hidden_states=True, use_cache=False)
        logp = out.logits[0, prompt - 1:-1].float().log_softmax(-1)                       # (2 new tokens, V)
        chosen = logp.gather(1, buffer[:, None])[:, 0]
        written = torch.arange(len(buffer)) < length
        entropy = -(logp.exp() * logp).sum(-1)
        return chosen * written, entropy * written, self.policy.value(out.hidden_states[-1][0, prompt - 1][None])[0]

    def read(self):
        "The state as the model's inputs."
        text = self.processor.apply_chat_template(self.task.prompt(self.frame, self.past), add_generation_prompt=True,
                                                  tokenize=False)
        return self.processor(text=[text], images=[np.array(i) for i in self.task.prompt_images(self.frame, self.past)],
                              return_tensors="pt", return_mm_token_type_ids=True)

    @torch.no_grad()
    def turn(self):
        "Play one turn."
        inputs = self.read()
        prompt = inputs["input_ids"].shape[1]
        out = self.model.generate(**inputs, max_new_tokens=self.new_tokens, do_sample=True, temperature=1.0, top_k=0,
                                  top_p=1.0, suppress_tokens=self.banned)[0, prompt:]
        buffer = torch.zeros(2 * self.new_tokens, dtype=torch.long)
        buffer[:len(out)] = out
        logp, _, value = self.evaluate(inputs, buffer, prompt, len(out))
        parsed = self.task.parse(self.policy.decode(out), self.frame.actions)
        before, reward, done = self.frame, 0.0, False
        if parsed.action:
            self.frame, reward, terminated, truncated = self.env.step(parsed.action)
            done = terminated or truncated
        self.past.append(PastTurn(before, self.policy.decode(out), parsed.action, reward)); self.count += 1
        if done or self.count >= self.task.max_turns: self.begin(); done = True
        return dict(inputs=inputs, buffer=buffer, prompt=prompt, length=len(out), logp=logp, value=value.item(),
                    reward=reward, done=done)

    def rollout(self): return [self.turn() for _ in range(self.turns)]

    def update(self, turns, gamma=0.9, lam=0.95):
        "Learn from each turn alone; gradients are added up and a step is taken at the end of each epoch."
        ahead, after = 0.0, 0.0
        for t in reversed(turns):
            going = 0.0 if t["done"] else 1.0
            t["advantage"] = ahead = t["reward"] + gamma * after * going - t["value"] + gamma * lam * going * ahead
            t["return"], after = ahead + t["value"], t["value"]
        for _ in range(self.epochs):
            for i in np.random.permutation(len(turns)):
                t = turns[i]
                logp, entropy, value = self.evaluate(t["inputs"], t["buffer"], t["prompt"], t["length"])
                r = (logp - t["logp"]).exp()
                loss = (-torch.minimum(r * t["advantage"], r.clamp(0.8, 1.2) * t["advantage"]).sum() / t["length"]
                        + 0.5 * (value - t["return"])**2 - 0.0 * entropy.mean())
                (loss / len(turns)).backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step(); self.optimizer.zero_grad()

    def iteration(self): self.update(self.rollout())


# ---------------------------------------------------------------------------------------------------- both sides

def our_ppo(base, new_tokens, turns, epochs=2, envs=64, device="cpu", **options):
    "Our loop with one optimizer step an epoch."
    envs = min(envs, turns)
    options = dict(parts="language", max_kl=0.0, value_warmup=0, lr=1e-5, end_lr=1e-5, minibatch=turns) | options
    policy = VLMPolicy.load(base, device=device)
    policy.allowed[len(policy.tokenizer):] = True
    policy.forbid()   # as in a model whose tokenizer fills its vocabulary; the plain loop writes these ids too
    return PPO("NumberLine", policy, PPOConfig(rollout=dict(envs=envs, steps=turns // envs),
                                               optim=dict(epochs=epochs), sampling=dict(max_new_tokens=new_tokens),
                                               **options))


def matmul_rate(n=512):
    "Multiplications and additions a second of one thread in a large product."
    a, b = torch.randn(n, n), torch.randn(n, n)
    for _ in range(5): a @ b
    return 2 * n**3 / min(clock_of(lambda: [a @ b for _ in range(10)]) / 10 for _ in range(5))


def operations(call):
    "Arithmetic of matrix products and attention in a call."
    with FlopCounterMode(display=False) as counter: call()
    return counter.get_total_flops()


# name, vocabulary, new tokens, our turns, the plain loop's turns
CASES = [("64 new tokens, small vocabulary", 0, 64, 64, 64),
         ("256 new tokens, vocabulary of 151 936", 151_936, 256, 32, 1)]


def measured(vocabulary, new_tokens, turns, plain_turns, repeats):
    "Processor seconds a turn of both sides, and what our arithmetic takes at the rate of a large product."
    with tempfile.TemporaryDirectory() as folder:
        base = base_model(Path(folder)/"base", vocabulary)
        ours = our_ppo(base, new_tokens, turns)
        plain = PlainLoop("NumberLine", VLMPolicy.load(base, device="cpu"), new_tokens, plain_turns)
        found = rounds(dict(ours=lambda: clock_of(ours.run_update) / turns,
                            plain=lambda: clock_of(plain.iteration) / plain_turns), repeats)
        rows = []
        arithmetic = operations(lambda: rows.append(ours.run_update()[0])) / turns
        tokens = rows[0]["response_tokens"]
        ours.player.close()
    return found, arithmetic, matmul_rate(), tokens


def run(options):
    "The section of the report."
    torch.set_num_threads(1)
    rows, floors = [], []
    for name, vocabulary, new_tokens, turns, plain_turns in CASES:
        t, whole, speed, tokens = measured(vocabulary, new_tokens, turns, plain_turns,
                                           options.repeats if not vocabulary else max(options.repeats // 2, 1))
        faster = t["plain"] / t["ours"]
        rows.append([name, f"{plain_turns}, {turns}", f"{tokens:.0f}", f"{1 / t['plain']:.3g} /s",
                     f"{1 / t['ours']:.3g} /s", ratio(faster), verdict(faster, 8)])
        floors.append([name, f"{whole / 1e9:.2f} GFLOP", f"{speed / 1e9:.0f} GFLOP/s", f"{speed / whole:.3g} /s",
                       f"{whole / speed / t['ours']:.0%}"])
    return "\n\n".join([
        "Untrained Qwen2.5-VL of width 128 and 2 layers, 2 epochs, one optimizer step an epoch on both sides. "
        "The plain loop has one environment, asks\n"
        "`generate` for one answer at a time, passes prompt and a buffer of twice the new tokens "
        "through the model a second time, takes logits at all\n"
        "positions, and learns from one turn at a time with gradients added up. "
        "Medians of processor time, one thread, the two sides in turn.",
        table(["", "turns of an iteration, plain and ours", "tokens of an answer",
               "plain loop, turns", "ours, turns", "ratio", "target"], rows),
        "Where the floor lies: the arithmetic of our iteration's matrix products and attention, "
        "were it done at the rate of a large product in the same process.",
        table(["", "arithmetic of a turn", "a large product", "floor, turns", "how near ours is"], floors)])
