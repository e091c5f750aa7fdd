"Mixtures of tasks: exact proportions by seed, each task asked about its own frames, never compared with another."
import json
from collections import Counter
import pytest
import torch
from rl4vlm.config import CollectConfig, PPOConfig
from rl4vlm.core import UsageError
from rl4vlm.rollout import OracleActor, Plan, Player, RandomActor, play
from rl4vlm.store import EpisodeStore
from rl4vlm.tasks import make_task

TEXT = "NumberLine:2,Sokoban:1"


def test_proportions_are_exact_by_seed():
    mixture = make_task(TEXT)
    for run_seed in range(3):
        names = [mixture.order[mixture.seed_at(10**6 + 7919 * i, i, run_seed) % 3] for i in range(300)]
        assert all(Counter(names[i:i + 3]) == {"NumberLine": 2, "Sokoban": 1} for i in range(0, 300, 3))
    orders = {tuple(mixture.order[mixture.seed_at(99, i, seed) % 3] for i in range(30)) for seed in range(5)}
    assert len(orders) == 5                                                    # shuffled by the seed of the run
    # never below a training seed
    assert all(mixture.seed_at(s, i, 0) - s in range(6) for s in range(2**20, 2**20 + 50) for i in range(6))


def test_episodes_are_those_of_the_tasks_alone():
    mixture = make_task(TEXT, Sokoban=dict(per_turn=2, max_turns=4))
    episodes = play(mixture, RandomActor(mixture), range(12), envs=4)
    assert [e.task for e in episodes] == ["NumberLine", "NumberLine", "Sokoban"] * 4
    for name, part in mixture.parts.items():
        seeds = [e.seed for e in episodes if e.task == name]
        numbers = [i for i, e in enumerate(episodes) if e.task == name]
        for seed, number in zip(seeds, numbers):
            [alone] = play(part, RandomActor(part), [seed], first=number)
            mixed = episodes[number]
            assert ([(t.text, t.action, t.reward, t.state, t.messages, t.steps) for t in mixed.turns]
                    == [(t.text, t.action, t.reward, t.state, t.messages, t.steps) for t in alone.turns])
            assert (mixed.success, mixed.columns) == (alone.success, alone.columns)
            assert {t.task for t in mixed.turns} == {name}


def test_rules_are_each_task_s_own():
    class Mumbler(RandomActor):
        def act(self, prompts): return [type(r)("Hmm") for r in super().act(prompts)]
    mixture = make_task(TEXT, Sokoban=dict(invalid="terminate"), NumberLine=dict(invalid="noop", max_turns=3))
    ends = {(e.task, len(e), e.turns[-1].terminated) for e in play(mixture, Mumbler(mixture), range(6))}
    assert ends == {("NumberLine", 3, False), ("Sokoban", 1, True)}


def test_oracles_workers_and_resuming():
    mixture = make_task(TEXT)
    here, there = (play(mixture, OracleActor(mixture), range(9), envs=3, workers=w) for w in (0, 2))
    assert all(e.success for e in here)
    assert [[t.text for t in e.turns] for e in here] == [[t.text for t in e.turns] for e in there]
    endless = lambda i, k: Plan(mixture.seed_at(100, 3 * k + i, 0), (0, i, k))
    first, second = (Player(mixture, RandomActor(mixture), endless, envs=3) for _ in range(2))
    first.rollout(7); second.restore(json.loads(json.dumps(first.state())))
    assert ([[(t.text, t.task) for t in row] for row in first.rollout(5)]
            == [[(t.text, t.task) for t in row] for row in second.rollout(5)])


def test_collected_data_have_the_proportions(tmp_path):
    from rl4vlm.collect import collect
    collect(CollectConfig(task=TEXT, out=str(tmp_path), episodes=24, actor="oracle"))
    episodes = EpisodeStore(tmp_path/"data"/"collected" if (tmp_path/"data"/"collected").exists()
                            else next(p.parent for p in tmp_path.rglob("*.parquet"))).episodes()
    assert Counter(e.task for e in episodes) == {"NumberLine": 16, "Sokoban": 8}


@pytest.mark.parametrize("text, options, says", [
    ("NumberLine:2,Sokoba:1", {}, "did you mean 'Sokoban'"), ("NumberLine:0,Sokoban:1", {}, "is no mixture of tasks"),
    ("NumberLine:half", {}, "is no mixture"), ("NumberLine,NumberLine", {}, "each name once"),
    (TEXT, dict(max_turns=3), "given by task"), (TEXT, dict(Sokoban=dict(sizes=3)), "did you mean 'size'"),
    (TEXT, dict(Sokoban=3), "given by task"),
])
def test_wrong_mixtures_are_named(text, options, says):
    with pytest.raises(UsageError, match=says): make_task(text, **options)


# learning

def small(estimator, **more):
    return PPOConfig(task=TEXT, updates=2, rollout=dict(envs=6, steps=3),
                     optim=dict(minibatch=8, epochs=1), sampling=dict(max_new_tokens=6),
                     advantage=dict(estimator=estimator, group_size=2), run=dict(panel="val-50", eval_every=2), **more)

@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    "An untrained tiny model whose tokenizer knows both tasks."
    from rl4vlm.models import load_vlm
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    mixture = make_task(TEXT)
    return VLMPolicy(*load_vlm(str(build_tiny(tmp_path_factory.mktemp("tiny"),
                                              texts=frame_texts(mixture, sample_frames(mixture, 20))))))


@pytest.mark.parametrize("estimator", ["gae", "grpo"])
def test_advantages_never_cross_tasks(policy, estimator):
    from rl4vlm.ppo import PPO
    mixture = make_task(TEXT, Sokoban=dict(max_turns=4), NumberLine=dict(max_turns=4))
    ppo = PPO(mixture, policy, small(estimator))
    try:
        for _ in range(2):
            ppo.step += 1
            segments = ppo.play()
            batch, _ = ppo.compute_advantages(segments)
            from rl4vlm.types import flatten
            turns, _ = flatten(segments)
            for name in mixture.parts:
                mine = torch.tensor([t.task == name for t in turns])
                assert mine.any()
                if estimator == "gae" and mine.sum() > 1 and batch.advantages[mine].abs().max() > 0:
                    assert abs(float(batch.advantages[mine].mean())) < 1e-4
                    assert abs(float(batch.advantages[mine].std()) - 1) < 1e-2
            groups = {}
            for t in turns: groups.setdefault(t.group, set()).add(t.task)
            assert all(len(names) == 1 for names in groups.values())
        if estimator == "grpo":
            assert Counter(ppo.plan(e, 0).seed % 3 for e in range(6)) == {0: 2, 1: 2, 2: 2}   # three groups of two
    finally: ppo.player.close()


def test_metrics_are_told_by_task(policy, tmp_path):
    from rl4vlm.ppo import train_ppo
    summary = train_ppo(make_task(TEXT, Sokoban=dict(max_turns=4)), policy, small("gae"), folder=tmp_path)
    row = summary["rows"][-1]
    assert set(row["tasks"]) == set(row["val_tasks"]) == {"NumberLine", "Sokoban"}
    assert sum(t["turns"] for t in row["tasks"].values()) == row["turns"] == 18
    assert row["env_steps"] >= 18 and "tasks" not in summary["rows"][0]
    told = [json.loads(line) for line in next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines()]
    assert told[-1]["tasks"] == row["tasks"]


def test_the_command_line_takes_tasks(rl4vlm, tmp_path):
    from rl4vlm.cli import read_options
    assert read_options("ppo", ["--tasks", TEXT]).task == read_options("collect", [f"--tasks={TEXT}"]).task == TEXT
    assert read_options("eval",
                        ["--tasks", "NumberLine", "Sokoban", "--model", "tiny"]).tasks == ["NumberLine", "Sokoban"]
    out = rl4vlm("collect", "--tasks", TEXT, "--episodes", 6, "--out", "data").stdout
    assert TEXT in out
    assert "is no mixture of tasks" in rl4vlm("collect", "--tasks", "NumberLine:x", "--out", "other", code=2).stderr


def test_results_and_report_have_rows_and_curves_for_each_task(tmp_path):
    from rl4vlm.config import EvalConfig
    from rl4vlm.evaluate import evaluate_all
    from rl4vlm.report import _columns
    rows = evaluate_all(
        EvalConfig(task=TEXT, task_options=dict(Sokoban=dict(per_turn=1)), out=str(tmp_path), panel="val-50"), {})
    assert ([(r["task"], r["name"], r["episodes"]) for r in rows]
            == [(t, n, 50) for t in ("NumberLine", "Sokoban") for n in ("random", "oracle")])
    assert "env_steps" not in rows[2] and [r["success"] for r in rows if r["name"] == "oracle"] == [1.0, 1.0]
    assert (tmp_path/"results.md").read_text().count("| Sokoban |") == 2
    assert json.loads((tmp_path/"results.json").read_text())["task"] == "NumberLine, Sokoban"
    assert {"NumberLine: success", "Sokoban: val_success"} <= set(
        _columns([dict(step=1, tasks=dict(NumberLine=dict(success=0.5)), val_tasks=dict(Sokoban=1.0))]))
