"""learning from turns, ours against one at a time

Two epochs over the turns of one rollout of NumberLine: `PPO.learn` against the plain loop's update. And what each of
our ideas is worth."""
import copy
import tempfile
from pathlib import Path
import torch
from iteration import PlainLoop, base_model, our_ppo
from measure import clock_of, ratio, rounds, table
from rl4vlm.policy import VLMPolicy

TITLE = "Update"


def updates(base, new_tokens, turns, plain_turns):
    "{name: function that returns the processor seconds of a turn in an update}."
    ours = our_ppo(base, new_tokens, turns)
    plain = PlainLoop("NumberLine", VLMPolicy.load(base, device="cpu"), new_tokens, plain_turns)
    played = plain.rollout()
    def learner(ppo):
        ppo.step = 1
        batch = ppo.compute_advantages(ppo.play())[0]
        ppo.player.close()
        start = copy.deepcopy(ppo.policy.state_dict())
        def again():
            "From the same weights each time: learning checks that the batch is of the policy it starts from."
            ppo.policy.load_state_dict(start)
            return clock_of(lambda: ppo.update(batch)) / turns
        return again
    ones = our_ppo(base, new_tokens, turns, microbatches=turns)
    far = our_ppo(base, new_tokens, turns, entropy_coef=0.01)
    return {"plain loop": lambda: clock_of(lambda: plain.update(played)) / plain_turns, "ours": learner(ours),
            "ours, a turn at a time": learner(ones), "ours, with an entropy bonus": learner(far)}


def run(options):
    "The section of the report."
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        t = rounds(updates(base_model(Path(folder)/"base"), 64, 64, 16), options.repeats)
    return ("Two epochs, answers of 64 tokens, a tiny Qwen2.5-VL with a small vocabulary; "
            "medians of processor time, one thread, all in turn.\n\n"
            + table(["update", "turns", "ratio"],
                    [[name, f"{1 / s:.3g} /s", ratio(t["plain loop"] / s)] for name, s in t.items()]))
