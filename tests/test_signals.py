"Signal share and mutual information inside PPO: held against gradients taken by hand, and disturbing nothing."
import json
import math
import numpy as np
import pytest
import torch
from rl4vlm.collapse import warnings_of
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


def test_noise_and_templates_are_warned_of_in_a_real_batch(played):
    "Advantages drawn at random, and scores that do not depend on the prompt: the measures of PPO set the rules off."
    ppo, batch, turns = played(rollout=dict(envs=12, steps=2))
    noisy = []
    for step in range(12):
        batch.advantages = torch.randn(len(batch), generator=torch.Generator().manual_seed(step))
        noisy.append(dict(step=step, val_success=0.3, **{k: v for k, v in ppo.signals(batch, turns).items()
                                                         if k == "signal_share"}))
    assert [name for _, name, _ in warnings_of(noisy)] == ["noise"]
    score = ppo.policy.score
    ppo.policy.action_tokens = lambda ids, span: np.arange(len(ids)) == len(ids) - 1   # all before the last is thought
    ppo.policy.score = lambda asked, *more, **options: score([batch.prompts[0]] * len(asked), *more, **options)
    found = ppo.thoughts_of(batch, turns)
    assert abs(found["mutual_information"]) < 1e-6 and found["distinct_thoughts"] > 0.5   # entropy as before
    template = [dict(step=step, val_success=0.3, signal_share=0.5, **found) for step in range(4)]
    assert [(step, name) for step, name, _ in warnings_of(template)] == [(2, "template")]


HEALTHY = dict(val_success=0.4, signal_share=0.3, mutual_information=2.4, distinct_thoughts=0.2, thought_tokens=20.0,
               turns=64, causes={})
SICK = {"noise": dict(signal_share=0.02), "template": dict(mutual_information=0.09),
        "short_thoughts": dict(thought_tokens=4.9), "long_thoughts": dict(causes=dict(cut=33))}

@pytest.mark.parametrize("name", [*SICK, "given up", "few different"])
def test_each_rule_fires_once_and_only_while_it_holds(name):
    kinds = {**SICK, "given up": dict(thought_tokens=None), "few different": dict(distinct_thoughts=0.01)}
    called = {"given up": "short_thoughts", "few different": "template"}.get(name, name)
    sick, needed = {**HEALTHY, **kinds[name]}, 5 if name == "noise" else 3
    run = lambda states: [dict(step=i, **(sick if s else HEALTHY)) for i, s in enumerate(states)]
    assert [(s, n) for s, n, _ in warnings_of(run([0] * 9 + [1] * 9))] == [(8 + needed, called)]
    assert not list(warnings_of(run([0] * 9 + [1] * (needed - 1) + [0] * 9)))
    assert not list(warnings_of(run([0] * 20)))


def test_rows_of_any_kind_are_read():
    strange = [dict(step=0), dict(step=1, signal_share="0", causes=3), dict(step=2, signal_share=None),
               *[dict(step=i, val_success=None, signal_share=float("nan"), thought_tokens=9, turns="many", causes=[1])
                 for i in range(3, 9)]]
    assert not list(warnings_of(strange))


def test_a_run_is_warned_once_in_its_log_and_not_again_when_it_is_resumed(blind_model, tmp_path, monkeypatch, recwarn):
    found = dict(signal_share=0.5, thought_tokens=9.0, mutual_information=0.0)
    monkeypatch.setattr(PPO, "signals", lambda *args: found)
    for updates, resume in ((4, False), (6, True)):
        policy = VLMPolicy.load(blind_model, device="cpu", parts="all")
        c = config(updates=updates, resume=resume, run=dict(eval_every=1, save_every=1, panel="val-50"))
        train_ppo("NumberLine", policy, c, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path/"metrics.jsonl").read_text().splitlines()]
    told = {r["step"]: r["warnings"] for r in rows if "warnings" in r}
    assert len(rows) == 7 and told == {3: ["template", "long_thoughts"]}   # answers of 6 tokens come to no end
    said = [str(w.message) for w in recwarn if "template" in str(w.message)]
    assert len(said) == 1 and said[0].startswith("update 3: ") and "kl.coef" in said[0]
