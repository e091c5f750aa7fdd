"What answers state of the state and foretell of the next: counted, logged, paid for, and no part of the game's return."
import json
import math
import numpy as np
import pytest
import torch
from rl4vlm.advantages import compute_advantages
from rl4vlm.config import PPOConfig
from rl4vlm.core import UsageError
from rl4vlm.grounding import as_stated, grounding, prediction, share_right, statement_terms
from rl4vlm.parsing import Parsed
from rl4vlm.rollout import Actor, RandomActor, play
from rl4vlm.statistics import summarise
from rl4vlm.tasks import make_task
from rl4vlm.types import Response, flatten, turn_of

class Misreader(Actor):
    "States the target rightly in even turns only, foretells nothing but 3, and mumbles in every fourth turn."
    name = "misreader"
    def __init__(self): self.asked = {}
    def act(self, prompts):
        said = []
        for p in prompts:
            turn = self.asked[p.seed] = len(self.asked)
            target, current = p.frame.info["Target"], p.frame.info["Current"]
            fields = dict(target=target if turn % 2 == 0 else target + 7, current=f" {current}.0 ", next=3)
            said.append(Response("hm" if turn % 4 == 3 else json.dumps(dict(fields, thoughts="", action="+"))))
        return said


def test_the_player_counts_what_was_said_against_what_came():
    task = make_task("NumberLine", predict=dict(next="current"))
    episodes = play(task, Misreader(), range(12), envs=1)
    turns = [t for e in episodes for t in e.turns]
    assert len(turns) > 24
    for number, turn in enumerate(turns):
        assert turn.grounding == (0.0 if number % 4 == 3 else 1.0 if number % 2 == 0 else 0.5)
        current = int(turn.state.split("current ")[1])
        came = min(current + 1, 5)   # the rules, written down once more
        assert turn.prediction == (0.0 if number % 4 == 3 else float(came == 3))
    assert {t.prediction for t in turns if t.action} == {0.0, 1.0}
    row = summarise(episodes, grounding=True)
    assert row["grounding"] == pytest.approx(np.mean([t.grounding for t in turns]))
    assert row["prediction"] == pytest.approx(np.mean([t.prediction for t in turns]))
    assert not {"grounding", "prediction"} & {*summarise(episodes)}
    plain = play(make_task("NumberLine"), Misreader(), range(12), envs=1)
    assert [e.total_reward for e in plain] == [e.total_reward for e in episodes]


@pytest.mark.parametrize("name, options", [
    ("NumberLine", dict(predict=dict(next="current"))),
    ("NumberLine", dict(predict=dict(next="current"), env_kwargs=dict(max_position=2))),
    ("FrozenLake", dict(predict=dict(cell="you"))), ("FrozenLake", dict(predict=dict(cell="you"), size=6)),
    ("Sokoban", dict(predict=dict(then="boxes", me="you"))), ("Sokoban", dict(predict=dict(me="you"), size=7, boxes=2)),
    ("Sokoban", dict(predict=dict(me="you"), per_turn=1))])
def test_examples_foretell_what_comes(name, options):
    "Also into walls, over edges, and where the game ends within a turn."
    task = make_task(name, **options)
    turns = [t for e in play(task, RandomActor(task), range(40)) for t in e.turns]
    assert len(turns) > 80 and {t.grounding for t in turns} == {t.prediction for t in turns} == {1.0}


def test_two_ways_to_write_a_value():
    same = [(5, "5"), (5.0, " 5"), ("A  b", "a B"), ([1, "2"], ("1", 2.0)), (True, "true"), ({"1": "X"}, {1: "x"})]
    assert all(as_stated(a) == as_stated(b) for a, b in same)
    other = [(5, 6), ("5", "five"), ([1, 2], [2, 1]), ("1 2", [1, 2]), (None, ""), ("1e400", "1e500"),
             (10**400, 10**401)]
    assert not any(as_stated(a) == as_stated(b) for a, b in other)
    assert as_stated(float("nan")) == "nan"   # a number that is not equal to itself would never be stated rightly
    nested = json.loads("[" * 200 + "]" * 200)
    assert share_right(dict(a=nested), dict(a=1)) == 0.0


def test_nothing_asked_and_nothing_said():
    task, plain = make_task("NumberLine"), make_task("NumberLine", fields={})
    info = dict(Target=1, Current=2)
    assert grounding(plain, Parsed("+"), info) is None and prediction(task, Parsed("+"), info) is None
    assert grounding(task, Parsed(cause="no_action", fields=dict(target=1, current=2)), info) == 0.0
    assert grounding(task, Parsed("+", fields=dict(target=1)), info) == 0.5
    asking = make_task("NumberLine", predict=dict(next="current"))
    assert prediction(asking, Parsed("+", fields=dict(next=2)), info) == 1.0
    assert prediction(asking, Parsed(cause="no_action", fields=dict(next=2)), info) == 0.0


def episodes_of(rewards, shares):
    said = dict(response_ids=np.arange(2), token_values=np.zeros(2, np.float32), logprobs=np.zeros(2, np.float32))
    return [[turn_of(reward=r, grounding=g, prediction=p, terminated=t == len(rs) - 1, value=0.0, group="one",
                     anchor=str(t), **said)
             for t, (r, (g, p)) in enumerate(zip(rs, ss))] for rs, ss in zip(rewards, shares)]


@pytest.mark.parametrize("estimator", ["gae", "gae-token", "bilevel", "rloo", "grpo", "drgrpo", "reinforce++", "gigpo",
                                       "reinforce"])
def test_a_statement_is_paid_like_a_reward(estimator):
    "Whatever the estimator: as if the environment had paid it, and nothing where the weights are 0."
    rewards = [[0.0, 1.0], [0.5, -1.0, 0.0], [0.3]]
    shares = [[(0.5, None), (1.0, 0.0)], [(0.0, 1.0), (None, None), (1.0, 0.5)], [(0.5, 0.5)]]
    paid = [[r + 0.4 * ((g or 0) - (g is not None)) + 0.1 * ((p or 0) - (p is not None)) for r, (g, p) in zip(rs, ss)]
            for rs, ss in zip(rewards, shares)]
    silent = [[(None, None)] * len(rs) for rs in rewards]
    def advantages(rewards, shares, **reward):
        turns, layout = flatten(episodes_of(rewards, shares))
        config = PPOConfig(advantage=dict(estimator=estimator, gamma=0.9), reward=reward)
        return compute_advantages(turns, layout, torch.zeros(6, 2), config).advantages
    shaped = advantages(rewards, shares, grounding=0.4, prediction=0.1)
    assert torch.allclose(shaped, advantages(paid, silent), atol=1e-6)
    plain = advantages(rewards, shares)
    assert torch.equal(plain, advantages(rewards, silent)) and not torch.allclose(shaped, plain, atol=1e-3)


def test_right_statements_pay_nothing():
    "So that a longer game earns no more by them."
    assert statement_terms([turn_of(grounding=1.0, prediction=1.0), turn_of()], 0.7, 0.3).tolist() == [0.0, 0.0]
    assert statement_terms([turn_of(grounding=0.0, prediction=0.5)], 0.7, 0.3)[0] == pytest.approx(-0.85)


def test_a_run_logs_it_and_a_table_shows_it(rl4vlm, blind_model, tmp_path):
    common = ("--model", blind_model, "--task_options.predict", '{"next": "current"}', "--sampling.max_new_tokens", "6")
    rl4vlm("ppo", *common, "--updates", 1, "--rollout.envs", 4, "--rollout.steps", 2, "--optim.minibatch", 8,
           "--reward.grounding", 0.2, "--reward.prediction", 0.1, "--out", "run")
    rows = [json.loads(line) for line in (tmp_path/"run"/"metrics.jsonl").read_text().splitlines()]
    assert rows[1]["grounding"] == rows[1]["prediction"] == 0.0 and -20 <= rows[0]["val_return"]
    rl4vlm("eval", *common, "--panel", "val-50", "--grounding", "true", "--baselines", "true", "--out", "table")
    table = {r["name"]: r for r in json.loads((tmp_path/"table"/"results.json").read_text())["rows"]}
    assert table["oracle"]["grounding"] == table["oracle"]["prediction"] == 1.0
    model = next(r for name, r in table.items() if name not in ("oracle", "random"))
    assert model["grounding"] == model["greedy_prediction"] == 0.0
    assert "grounding" in (tmp_path/"table"/"results.md").read_text()


def test_what_cannot_be_foretold_is_refused(rl4vlm):
    for options, words in ((dict(predict=dict(next="curent")), "did you mean 'current'"),
                           (dict(predict=dict(target="current")), "have already"),
                           (dict(predict=dict(action="current")), "have already")):
        with pytest.raises(UsageError, match=words): make_task("NumberLine", **options)
    with pytest.raises(UsageError, match="after"): make_task("Blackjack", predict=dict(next="player"))
    with pytest.raises(UsageError, match="weight|at least"): PPOConfig(reward=dict(grounding=-1))
    lake = make_task("FrozenLakeSlippery", predict=dict(cell="you"))
    with pytest.raises(UsageError, match="cannot say what follows"): play(lake, RandomActor(lake), [0])
    assert math.isclose(PPOConfig(reward=dict(grounding=0.5)).reward.grounding, 0.5)
