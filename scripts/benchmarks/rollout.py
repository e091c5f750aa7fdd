"""answers and turns a second, ours, a plain loop's and TRL's

The rollout alone against `generate` one answer at a time; and a whole step of RLOO (answers, rewards, one optimizer
step) on the task PickImage against TRL's RLOOTrainer with the same model, prompts, groups, lengths and precision."""
import contextlib
import io
import tempfile
from pathlib import Path
import torch
from iteration import PlainLoop, base_model, our_ppo
from measure import clock_of, median, ratio, rounds, table, verdict
from rl4vlm.config import PPOConfig, TRLConfig
from rl4vlm.policy import VLMPolicy
from rl4vlm.ppo import PPO
from rl4vlm.tasks import make_task

TITLE = "Rollout, and TRL"
SIZES = [("width 64, 2 layers", 64, 2), ("width 256, 4 layers", 256, 4)]   # name, width, layers
PROMPTS, GROUP, TOKENS = 8, 4, 32


def against_the_loop(repeats):
    "Processor seconds of a turn played."
    with tempfile.TemporaryDirectory() as folder:
        base = base_model(Path(folder)/"base")
        ours, plain = our_ppo(base, 64, 64, envs=64), PlainLoop("NumberLine", VLMPolicy.load(base, device="cpu"), 64, 8)
        found = rounds(dict(ours=lambda: clock_of(ours.collect) / 64, plain=lambda: clock_of(plain.rollout) / 8),
                       repeats)
        ours.player.close()
    return found


def no_end(model, tokenizer):
    "All answers get the full length: the tokens that may not be sampled, the end token among them."
    from rl4vlm.trl_rloo import banned_tokens
    return banned_tokens(model, tokenizer) + [tokenizer.eos_token_id]


def trl_trainer(base, folder, task):
    "TRL's trainer as `rl4vlm trl-rloo` makes it, with answers of full length."
    from trl import RLOOTrainer
    from rl4vlm.models import load_vlm
    from rl4vlm.trl_rloo import Reward, episode_stream, rloo_arguments
    arguments = rloo_arguments(TRLConfig(prompts=PROMPTS, group_size=GROUP, sampling=dict(max_new_tokens=TOKENS),
                                         steps=10**6, optim=dict(lr=1e-5)), folder)
    arguments.logging_steps = 10**6
    model, processor = load_vlm(base, dtype="float32", device="cpu")
    arguments.generation_kwargs = dict(suppress_tokens=no_end(model, processor.tokenizer))
    return RLOOTrainer(model=model, reward_funcs=Reward(task, processor.tokenizer.eos_token_id), args=arguments,
                       train_dataset=episode_stream(task), processing_class=processor)


class Stopwatch:
    "Seconds of each of TRL's steps, from the end of one to the end of the next."
    def __init__(self, steps, begin):
        from transformers import TrainerCallback
        outer, self.found = self, []
        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                outer.found.append(begin())
                control.should_training_stop = state.global_step > steps
        self.callback = Callback()


def against_trl(width, layers, repeats):
    "Processor seconds of a step of each, parameters."
    import time
    import warnings
    warnings.filterwarnings("ignore", category=FutureWarning)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        task = make_task("PickImage")
        base = base_model(Path(folder)/"base", width=width, layers=layers, task="PickImage")
        policy = VLMPolicy.load(base, device="cpu")
        parameters = sum(p.numel() for p in policy.model.parameters())
        policy.forbid(policy.end_id)
        ours = PPO(task, policy,
                   PPOConfig(task="PickImage", advantage=dict(estimator="rloo", group_size=GROUP),
                             rollout=dict(envs=PROMPTS * GROUP),
                             optim=dict(minibatch=PROMPTS * GROUP, epochs=1, lr=1e-5, end_lr=1e-5, value_warmup=0),
                             sampling=dict(max_new_tokens=TOKENS), kl=dict(max=0.0), loss=dict(thought_weight=1.0)))
        mine, trainer = [], trl_trainer(base, Path(folder)/"trl", task)
        def turn():   # after each of TRL's steps one of ours; the time of ours is taken out again
            seconds = time.process_time() - turn.last
            mine.append(clock_of(ours.run_update)); turn.last = time.process_time()
            return seconds
        turn.last = time.process_time()
        watch = Stopwatch(repeats + 1, turn)
        trainer.add_callback(watch.callback); trainer.train(); ours.player.close()
    return median(mine[2:]), median(watch.found[2:]), parameters


def run(options):
    "The section of the report."
    torch.set_num_threads(1)
    t = against_the_loop(options.repeats)
    rows, completions = [], PROMPTS * GROUP
    for name, width, layers in SIZES:
        ours, theirs, parameters = against_trl(width, layers, 2 * options.repeats)
        rows.append([f"{name}: {parameters / 1e6:.2f} M parameters", f"{completions / theirs:.3g} /s",
                     f"{completions / ours:.3g} /s", ratio(theirs / ours), verdict(theirs / ours, 2)])
    return "\n\n".join([
        "Medians of processor time, one thread, the two sides in turn. "
        "Playing NumberLine with answers of 64 tokens and 64 environments:",
        table(["", "plain loop, turns", "ours, turns", "ratio"],
              [["rollout", f"{1 / t['plain']:.3g} /s", f"{1 / t['ours']:.3g} /s", ratio(t["plain"] / t["ours"])]]),
        f"A whole step on PickImage: {PROMPTS} prompts × {GROUP} answers × {TOKENS} tokens, "
        "all of full length, float32, one optimizer step, no KL:",
        table(["", "TRL, answers", "ours, answers", "ratio", "target"], rows)])
