"Advantages over ragged tracks, and batches from which nothing can be learned."
import numpy as np
import pytest
import torch
from rl4vlm.advantages import centred, gigpo, grpo, rloo, token_gae, turn_gae
from rl4vlm.batch import normalised
from rl4vlm.config import PPOConfig
from rl4vlm.ppo import PPO, RunningStd
from rl4vlm.types import flatten, turn_of

GAMMA, LAM = 0.9, 0.8


def ragged(rng, empty=False):
    "Tracks of unequal numbers of turns, answers of unequal length, ends and cuts anywhere."
    def turn(last):
        kind = rng.choice(["terminated", "truncated", ""], p=[0.2, 0.15, 0.65])
        n = int(rng.integers(0 if empty else 1, 7))
        return turn_of(reward=float(rng.normal()), value=float(np.float32(rng.normal())),
                       terminated=kind == "terminated", truncated=kind == "truncated",
                       next_value=float(np.float32(rng.normal())) if kind == "truncated" or last and not kind else None,
                       response_ids=np.arange(n), token_values=rng.normal(size=n).astype(np.float32))
    return [[turn(t == n - 1) for t in range(n)] for n in rng.integers(1, 6, size=rng.integers(1, 6))]


def by_hand(track, tokens):
    "One track at a time in float64: a list of steps, each with what follows it."
    steps = []
    for turn in track:
        values = (list(turn.token_values) if len(turn.response_ids) else [turn.value]) if tokens else [turn.value]
        for i, v in enumerate(values):
            last = i == len(values) - 1
            steps.append(dict(r=turn.reward if last else 0.0, v=float(v), gamma=GAMMA if last else 1.0,
                              done=last and turn.done, over=last and turn.terminated,
                              cut=turn.next_value if last else None,
                              real=not tokens or len(turn.response_ids) > 0))
    for s, following in zip(steps, [*steps[1:], None]):
        s["next"] = 0.0 if s["over"] else s["cut"] if s["done"] or following is None else following["v"]
    found = []
    for i in range(len(steps)):
        total, weight = 0.0, 1.0
        for s in steps[i:]:
            total += weight * (s["r"] + s["gamma"] * s["next"] - s["v"])
            if s["done"]: break
            weight *= s["gamma"] * LAM
        found.append(total)
    return [a for a, s in zip(found, steps) if s["real"]]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("tokens", [False, True])
def test_ragged_segments_against_a_loop(seed, tokens):
    ("The next step of a segment is not the next row of the grid: most advantages of segments with fewer tokens than "
     "the longest were wrong.")
    segments = ragged(np.random.default_rng(seed), empty=seed % 2 == 1)
    turns, layout = flatten(segments)
    if tokens:
        rewards = [np.eye(max(len(t.response_ids), 1), dtype=np.float32)[-1] * t.reward for t in turns]
        found = token_gae(turns, layout, rewards, GAMMA, LAM)
        counts = [len(t.response_ids) for t in turns]
    else:
        found = turn_gae(turns, layout, torch.tensor([t.reward for t in turns]), GAMMA, LAM)
        counts = [1] * len(turns)
    ours = {}
    for part, n in zip(found.advantages.split(counts), layout.segment.tolist()):
        ours.setdefault(n, []).extend(part.tolist())
    for n, segment in enumerate(segments):
        assert np.allclose(ours.get(n, []), by_hand(segment, tokens), atol=1e-5), f"segment {n}"
    assert torch.allclose(found.returns, found.advantages + found.values)


def test_a_cut_whose_value_nobody_asked_for_is_refused():
    from rl4vlm.core import InvariantError
    turns, layout = flatten([[turn_of(reward=1.0, value=0.5)]])
    with pytest.raises(InvariantError, match="was cut off and nobody has asked"):
        turn_gae(turns, layout, torch.tensor([1.0]), GAMMA, LAM)


@pytest.mark.parametrize("seed", range(30))
def test_equal_advantages_are_no_signal(seed):
    rng = np.random.default_rng(seed)
    size, constant = int(rng.integers(1, 300)), float(rng.normal() * 10.0 ** rng.integers(-3, 5))
    x = torch.full((size,), constant) * (1 + 1e-7 * torch.from_numpy(rng.integers(-2, 3, size)).float())
    groups = torch.zeros(size, dtype=torch.long)
    for found in (normalised(x, torch.ones(size, dtype=torch.bool)), rloo(x, groups), centred(x, groups),
                  grpo(x, groups), gigpo(x, groups, x, torch.arange(size), groups),
                  gigpo(x, groups, x, torch.arange(size), torch.arange(size))):
        assert (found == 0).all()


def test_what_differs_is_kept():
    x = torch.tensor([100.0, 100.01, 99.99]); groups = torch.zeros(3, dtype=torch.long)
    for found in (normalised(x, torch.ones(3, dtype=torch.bool)), grpo(x, groups), rloo(x, groups)):
        assert found[1] > 0 > found[2]
    assert normalised(torch.tensor([1e-9, -1e-9]), torch.ones(2, dtype=torch.bool)).abs().min() > 0
    assert (normalised(x, torch.zeros(3, dtype=torch.bool)) == 0).all()   # nothing counts
    assert (normalised(torch.tensor([1.5e-5, -1.5e-5]), torch.ones(2, dtype=torch.bool),
                       scale=torch.tensor([-200.7, -200.7])) == 0).all()   # what is left of large numbers


def test_the_scale_of_constant_returns():
    scale = RunningStd(); scale.add([]); assert scale.std == 1
    scale.add([-200.7]); assert scale.std == pytest.approx(200.7)
    scale.add(np.full(100, -200.7)); assert scale.std == pytest.approx(200.7)
    zeros = RunningStd(); zeros.add([0.0, 0.0]); assert zeros.std == 1
    some = RunningStd(); some.add([0.0, 1.0]); assert some.std == 0.5


def constant(ppo, reward):
    "Every turn is a whole episode with this reward."
    played = ppo.play
    def changed():
        segments = played()
        for turn in (t for s in segments for t in s):
            turn.reward, turn.terminated, turn.truncated, turn.response.value = reward, True, False, 0.0
        return [s[:1] for s in segments]
    ppo.play = changed


@pytest.mark.parametrize("options",
                         [dict(advantage="gae"), dict(advantage="reinforce"), dict(advantage="rloo", group_size=4),
                          dict(advantage="grpo", group_size=2), dict(advantage="gigpo", group_size=4),
                          dict(advantage="rloo", group_size=4, normalize="yes"),
                          dict(advantage="reinforce++", group_size=4), dict(advantage="drgrpo", group_size=4),
                          dict(advantage="gae", envs=1, steps=1), dict(advantage="gae", temperature_range=2.0),
                          dict(advantage="reinforce", envs=1)], ids=lambda o: "-".join(map(str, o.values())))
def test_nothing_to_learn_from_changes_nothing_and_says_so(blind_model, options):
    from rl4vlm.policy import VLMPolicy
    config = PPOConfig(
        **{**dict(envs=4, steps=2, minibatch=4, max_new_tokens=4, value_warmup=0, task_options=dict(max_turns=1)),
           **options})
    from rl4vlm.tasks import make_task
    ppo = PPO(make_task("NumberLine", max_turns=1), VLMPolicy.load(str(blind_model)), config)
    kept = lambda: {n: p.detach().clone() for n, p in ppo.policy.named_parameters() if not n.startswith("value_head")}
    moving = [p for g in ppo.learner.optimizer.param_groups for p in g["params"]]
    for p in moving:
        ppo.learner.optimizer.state[p] = dict(step=torch.tensor(3.0), exp_avg=torch.ones_like(p),
                                              exp_avg_sq=torch.ones_like(p))   # an optimizer in motion
    constant(ppo, -200.7)
    before = kept()
    try:
        with pytest.warns(UserWarning, match="no turn of update 1 did better than another"): row, _ = ppo.run_update()
    finally: ppo.player.close()
    assert row["equal_advantages"] and all(np.isfinite(v) for v in row.values() if isinstance(v, float))
    assert all((before[n] == p).all() for n, p in kept().items())


@pytest.mark.parametrize("options", [dict(advantage="gae"), dict(advantage="gae-token"), dict(advantage="bilevel"),
                                     dict(advantage="reinforce")])
def test_a_batch_of_one(blind_model, options):
    "It ended with NaN."
    from rl4vlm.policy import VLMPolicy
    ppo = PPO("NumberLine", VLMPolicy.load(str(blind_model)), PPOConfig(rollout=dict(envs=1, steps=1),
                                                                        optim=dict(minibatch=1, value_warmup=0),
                                                                        sampling=dict(max_new_tokens=4),
                                                                        task_options=dict(max_turns=1), **options))
    try: rows = [ppo.run_update()[0] for _ in range(2)]
    finally: ppo.player.close()
    assert all(np.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert all(p.isfinite().all() for p in ppo.policy.parameters())


@pytest.mark.parametrize("advantage", ["gae", "gae-token", "bilevel"])
def test_answers_without_tokens(blind_model, advantage):
    "Some or all answers of a rollout are empty: they weigh nothing, and nothing becomes NaN."
    from rl4vlm.policy import VLMPolicy
    for empty in (2, 8):
        ppo = PPO("NumberLine", VLMPolicy.load(str(blind_model)), PPOConfig(advantage=dict(estimator=advantage),
                                                                            rollout=dict(envs=4, steps=2),
                                                                            optim=dict(minibatch=4, value_warmup=0),
                                                                            sampling=dict(max_new_tokens=4)))
        played = ppo.play
        def emptied():
            segments = played()
            for r in [t.response for s in segments for t in s][:empty]:
                r.ids, r.logprobs, r.token_values = (r.ids[:0], r.logprobs[:0],
                                                     r.token_values[:0] if r.token_values is not None else None)
            return segments
        ppo.play = emptied
        try: row, _ = ppo.run_update()
        finally: ppo.player.close()
        assert all(np.isfinite(v) for v in row.values() if isinstance(v, float))
        assert all(p.isfinite().all() for p in ppo.policy.parameters())


def test_the_value_head_alone_learns_in_warmup(blind_model):
    "value_gradient lets the value loss change the model, but not in the updates in which only the head learns."
    from rl4vlm.policy import VLMPolicy
    for warmup, gradient, moves in ((0, True, True), (1, True, False), (1, False, False)):
        ppo = PPO("NumberLine", VLMPolicy.load(str(blind_model)),
                  PPOConfig(rollout=dict(envs=4, steps=2), optim=dict(minibatch=8, value_warmup=warmup),
                            sampling=dict(max_new_tokens=4), loss=dict(value_gradient=gradient)))
        torch.nn.init.normal_(ppo.policy.value_head[-1].weight)
        before = [p.detach().clone() for p in ppo.policy.model.parameters()]
        try: ppo.run_update()
        finally: ppo.player.close()
        assert any((a != b).any() for a, b in zip(before, ppo.policy.model.parameters())) == moves
