("Sokoban and FrozenLake: rules, levels that can be solved, oracles against other searches, "
 "several moves a turn, wrong options.")
import random
from collections import deque
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from rl4vlm.core import UsageError
from rl4vlm.env_pool import TaskEnv
from rl4vlm.envs.frozen_lake import NAMES, LakeEnv, shortest_way, value_iteration
from rl4vlm.envs.sokoban import (
    LONGEST,
    MOVES,
    SHORTEST,
    Level,
    as_text,
    border,
    distances,
    draw,
    make_level,
    moved,
    solve,
)
from rl4vlm.rollout import OracleActor, RandomActor, play
from rl4vlm.tasks import make_task

SIZES = pytest.mark.parametrize("size, boxes", [(5, 1), (5, 2), (6, 1), (6, 2), (7, 1), (7, 2)])


def read_level(text):
    "A level from the signs of `as_text`."
    at = lambda signs: frozenset((x, y) for y, row in enumerate(text.split("\n"))
                                 for x, s in enumerate(row) if s in signs)
    [player] = at("@+")
    return Level(len(text.split("\n")), at("#"), at(".*+"), player, at("$*"))


def search(level):
    ("The number of moves to a solution by breadth-first search over a rule written down once more; "
     "None if there is none.")
    def after(player, boxes, d):
        to, beyond = (player[0] + d[0], player[1] + d[1]), (player[0] + 2 * d[0], player[1] + 2 * d[1])
        if to in level.walls: return None
        if to in boxes: return None if beyond in level.walls or beyond in boxes else (to, (boxes - {to}) | {beyond})
        return to, boxes
    start = (level.player, level.boxes)
    known, waiting = {start: 0}, deque([start])
    while waiting:
        now = waiting.popleft()
        if now[1] == level.targets: return known[now]
        for d in MOVES.values():
            if (new := after(*now, d)) and new not in known: known[new] = known[now] + 1; waiting.append(new)
    return None


@SIZES
def test_levels_are_solvable_and_plans_are_shortest(size, boxes):
    seen = set()
    for seed in range(25):
        level = make_level(seed, size, boxes)
        seen.add(level)
        assert level.size == size and len(level.boxes) == len(level.targets) == boxes and border(size) <= level.walls
        assert not level.boxes & level.targets
        assert level.player not in level.walls | level.boxes and not (level.boxes | level.targets) & level.walls
        plan = solve(level)
        assert SHORTEST <= len(plan) <= LONGEST
        assert len(plan) == search(level) == distances(level.walls, level.targets, size)[level.player, level.boxes]
        for name in plan: level = moved(level, name)
        assert level.solved and solve(level) == ()
        assert read_level(as_text(make_level(seed, size, boxes))) == make_level(seed, size, boxes)
    assert len(seen) > 15   # a board of 3×3 cells with two boxes has few levels


@pytest.mark.parametrize("text",
                         ["#####\n#$  #\n#   #\n# @.#\n#####", "######\n#  ###\n#@$$##\n#..$.#\n#    #\n######",
                          "#####\n#.$@#\n# # #\n#   #\n#####", "######\n#    #\n# $# #\n#@ $.#\n#  . #\n######"])
def test_a_star_agrees_with_plain_search_on_given_levels(text):
    level = read_level(text)
    plan, moves = solve(level), search(level)
    assert (plan is None) == (moves is None) and (plan is None or len(plan) == moves)


def test_a_star_agrees_with_plain_search_wherever_a_learner_gets():
    source, found = random.Random(0), set()
    for seed in range(30):
        level = make_level(seed, 6, 1 + seed % 2)
        for _ in range(source.randrange(40)): level = moved(level, source.choice(list(MOVES)))
        plan, moves = solve(level), search(level)
        assert (plan is None and moves is None) or len(plan) == moves
        found.add(plan is None)
    assert found == {True, False}   # some can no longer be solved


def test_the_rules_of_sokoban_by_hand():
    level = read_level("######\n#@$ .#\n#    #\n#  $ #\n#   .#\n######")
    assert moved(level, "left") == level == moved(level, "up")
    assert as_text(moved(level, "right")).split("\n")[1] == "# @$.#"
    assert as_text(moved(moved(level, "right"), "right")).split("\n")[1] == "#  @*#"
    # two boxes in a row do not move
    assert moved(read_level("######\n#@$$.#\n#   .#\n#    #\n#    #\n######"), "right").player == (1, 1)


@pytest.mark.parametrize("env_id", ["rl4vlm/Sokoban-v0", "rl4vlm/FrozenLake-v0"])
def test_the_environments_keep_the_rules_of_gymnasium(env_id):
    env = gym.make(env_id)
    check_env(env.unwrapped, skip_render_check=True)
    with pytest.raises(gym.error.ResetNeeded): gym.make(env_id).unwrapped.step(0)
    a, b = env.reset(seed=5), env.reset(seed=5)
    assert np.array_equal(a[0], b[0])
    assert a[1] == b[1] and not np.array_equal(env.reset(seed=6)[1].values(), a[1].values())


def test_rewards_of_sokoban():
    env = gym.make("rl4vlm/Sokoban-v0", boxes=2)
    for seed in range(5):
        _, info = env.reset(seed=seed)
        ended = False
        for name in solve(info["level"]):
            before = len(info["level"].boxes & info["level"].targets)
            _, reward, ended, _, info = env.step(list(MOVES).index(name))
            assert reward == pytest.approx(-0.1 + len(info["level"].boxes & info["level"].targets) - before
                                           + 10 * ended)
        assert ended and info["success"]


def test_images_of_sokoban_tell_states_apart():
    images = [draw(make_level(seed), 14).tobytes() for seed in range(40)]
    assert len(set(images)) == 40
    level = make_level(1)
    assert draw(level, 28).shape == (168, 168, 3)
    assert all((draw(level, 28) != draw(moved(level, name), 28)).any() for name in MOVES if moved(level, name) != level)


def test_answers_name_several_moves():
    task = make_task("Sokoban")
    [episode] = play(task, OracleActor(task), [1])
    plan = solve(make_task("Sokoban").make_env().reset(seed=1)[1]["level"])
    assert [t.action for t in episode.turns] == [", ".join(plan[i:i + 3]) for i in range(0, len(plan), 3)]
    assert [t.steps for t in episode.turns][:-1] == [3] * (len(episode) - 1)
    assert episode.success and episode.columns["env_steps"] == len(plan)
    one = make_task("Sokoban", per_turn=1)
    assert len(play(one, OracleActor(one), [1])[0]) == len(plan) and type(one.actions) is list


@pytest.mark.parametrize("name, options", [("Sokoban", {}), ("Sokoban", dict(size=5, boxes=2)), ("FrozenLake", {}),
                                           ("FrozenLake", dict(size=8)), ("FrozenLake", dict(random_map=False))])
def test_the_oracle_always_wins(name, options):
    task = make_task(name, **options)
    assert all(e.success for e in play(task, OracleActor(task), range(20), keep_images=0))


def test_words_alone_are_enough():
    for name in ("Sokoban", "FrozenLake"):
        task = make_task(name, text_only=True)
        frame = TaskEnv(task).reset(2)
        assert not frame.images
        assert f"Now: {frame.text}" in task.prompt(frame)[0]["content"][-1]["text"] and frame.text.startswith("you ")


@pytest.mark.parametrize("slippery", [False, True])
def test_value_iteration_is_right_by_playing_it(slippery):
    "The value of the start with γ = 1 is how often the policy arrives, in 2 000 episodes without a limit."
    env = LakeEnv(random_map=False, is_slippery=slippery)
    env.reset(seed=0)
    policy, arrived = value_iteration(env.game.P, 0.9999).round(9).argmax(1), 0
    for _ in range(2000 if slippery else 3):
        cell, ended = env.reset()[0], False
        while not ended: cell, reward, ended, _, _ = env.step(policy[cell])
        arrived += reward
    assert arrived / (2000 if slippery else 3) == pytest.approx(value_iteration(env.game.P, 0.9999).max(1)[0], abs=0.03)


def test_ways_over_the_ice():
    for seed in range(20):
        env = LakeEnv()
        env.reset(seed=seed)
        way = shortest_way(env.lake, (1, 1))
        for name in way: cell, reward, ended, _, info = env.step(NAMES.index(name))
        assert reward == 1.0 and ended and not shortest_way(env.lake, info["cell"])
    assert len({tuple(LakeEnv().reset(seed=s)[1]["lake"]) for s in range(20)}) > 15


def test_the_slippery_oracle_beats_chance_by_far():
    task = make_task("FrozenLakeSlippery")
    best, chance = (np.mean([e.success for e in play(task, who, range(80), keep_images=0)])
                    for who in (OracleActor(task), RandomActor(task)))
    assert best > 0.75 and chance < 0.3


@pytest.mark.parametrize("name, options, says", [
    ("Sokoban", dict(size=4), "size=4 of Sokoban must be from 5 to 7"),
    ("Sokoban", dict(boxes=0), "boxes=0 of Sokoban"), ("Sokoban", dict(per_turn=0), "1 or more"),
    ("FrozenLake", dict(size=9), "size=9 of FrozenLake must be one of 4, 5"),
    ("FrozenLake", dict(size=6, random_map=False), "must be one of 4, 8"),
])
def test_wrong_options_are_named(name, options, says):
    with pytest.raises(UsageError, match=says): make_task(name, **options)
