"Signal share and mutual information inside PPO: held against gradients taken by hand, and disturbing nothing."
import math
import numpy as np
import pytest
import torch
from rl4vlm.config import PPOConfig
from rl4vlm.policy import VLMPolicy
from rl4vlm.ppo import PPO, train_ppo
from rl4vlm.signals import agreement, cross_scores, mutual_information, signal_share, two_halves

def config(**options):
    return PPOConfig(
        **{**dict(task="NumberLine", updates=2, rollout=dict(envs=6, steps=2), optim=dict(minibatch=6),
                  sampling=dict(max_new_tokens=6), run=dict(eval_every=1, panel="val-50"), trainable="all"), **options})


@pytest.fixture()
def played(blind_model):
    def made(**options):
        ppo = PPO("NumberLine", VLMPolicy.load(blind_model, device="cpu", parts="all"), config(**options))
        ppo.step = 1
        segments = ppo.play()
        batch, _ = ppo.compute_advantages(segments)
        batch.advantages = torch.randn(len(batch), generator=torch.Generator().manual_seed(0))
        return ppo, batch, [t for row in zip(*segments) for t in row]
    return made


@pytest.mark.parametrize("ratio", ["token", "turn"])
def test_the_share_is_that_of_gradients_taken_by_hand(played, ratio):
    ppo, batch, turns = played(loss=dict(ratio=ratio), optim=dict(minibatch=6, microbatches=3))
    found = ppo.signals(batch, turns)
    learning = [p for p in ppo.policy.model.parameters() if p.requires_grad]
    gradients = []
    for rows in two_halves([t.episode for t in turns], 128, ppo.step):
        ppo.policy.zero_grad()
        scores = ppo.policy.score([batch.prompts[i] for i in rows], [batch.responses[i] for i in rows], 1.0)
        weights = batch.weights[rows][:, :scores.mask.shape[1]]
        change = scores.logprobs - batch.old_logprobs[rows][:, :scores.mask.shape[1]]   # zero: the policy has not moved
        each = (change.exp() * weights if ratio == "token"
                else ((change * weights).sum(1)).exp()[:, None] / weights.shape[1])
        total = weights.sum() if ratio == "token" else len(rows)
        (-(each * batch.advantages[rows][:, None]).sum() / total).backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learning])
    assert found["signal_share"] == pytest.approx(signal_share(*agreement(*gradients)), abs=1e-4)
    assert -1 <= found["signal_share"] <= 1


def test_measuring_leaves_no_trace(played, blind_model, tmp_path):
    ppo, batch, turns = played()
    before = [p.detach().clone() for p in ppo.policy.parameters()]
    ppo.signals(batch, turns)
    assert all(torch.equal(a, b) for a, b in zip(before, ppo.policy.parameters()))
    assert all(p.grad is None for p in ppo.policy.parameters())
    rows = []
    for signals in (True, False):
        torch.manual_seed(0)   # of the value head
        policy = VLMPolicy.load(blind_model, device="cpu", parts="all")
        c = config(run=dict(eval_every=1, panel="val-50", signals=signals))
        rows.append(train_ppo("NumberLine", policy, c, folder=tmp_path/str(signals))["rows"])
    names = {"signal_share", "mutual_information", "distinct_thoughts", "thought_tokens"}
    with_it, without = rows
    assert [{k: v for k, v in r.items() if k not in names} for r in with_it] == without
    assert names & {*with_it[1]} >= {"signal_share"} and not names & {*without[1]}


def test_turns_of_one_episode_are_in_one_half_and_one_episode_has_no_share(played):
    groups = [f"e{i % 5}" for i in range(40)]
    first, second = two_halves(groups, 30, seed=3)
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    assert 0 < len(first) <= 16 and 0 < len(second) <= 16
    ppo, batch, turns = played()
    for t in turns: t.episode = "one"
    assert ppo.halves_agree(batch, turns) == (0.0, 0.0) and ppo.signals(batch, turns)["signal_share"] == 0


def test_a_policy_that_sees_and_one_that_does_not(blind_model):
    ("Log-probs of words that follow the image, of a policy made to depend on it, "
     "against one that gets every image shuffled.")
    policy = VLMPolicy.load(blind_model, device="cpu")
    images = [np.full((112, 112, 3), 60 * i, np.uint8) for i in range(4)]
    prompts = [policy.encode([dict(role="user", content=[dict(type="image"), dict(type="text", text="Which?")])], [i])
               for i in images]
    words = [np.array([40 + i, policy.end_id]) for i in range(4)]
    states, score = {p.keys: i for i, p in enumerate(prompts)}, policy.score
    def honest(asked, answers, *rest, blind=False, **more):   # says word i of image i, or any word at random
        scores = score(asked, answers, *rest, **more)
        for row, (p, a) in enumerate(zip(asked, answers)):
            right = states[p.keys] == a[0] - 40
            scores.logprobs[row, 0] = math.log(0.25) if blind else (0.0 if right else -50.0)
        return scores
    thoughts = [np.array([True, False])] * 4
    policy.score = honest
    assert mutual_information(cross_scores(policy, prompts, words, thoughts)) == pytest.approx(math.log(4), abs=1e-6)
    policy.score = lambda *args, **more: honest(*args, blind=True, **more)
    assert mutual_information(cross_scores(policy, prompts, words, thoughts)) == pytest.approx(0, abs=1e-6)
