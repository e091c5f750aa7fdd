"ALFWorld: games that the engine and its own loader read, an oracle that wins them, a view, rewards, errors, leaks."
import json
import os
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest

pytest.importorskip("alfworld", reason="needs the extra rl4vlm[alfworld]")
from rl4vlm.core import RL4VLMError, UsageError
from rl4vlm.env_pool import EnvPool, TaskEnv
from rl4vlm.envs import alfworld_games as games_module
from rl4vlm.envs.alfworld import ALFWorldEnv, goal_rate, scene_of, useful
from rl4vlm.envs.alfworld_games import (
    PLACES,
    ROOMS,
    TYPES,
    Engine,
    Game,
    find_games,
    generate_games,
    make_game,
    read_game,
    write_game,
)
from rl4vlm.envs.alfworld_view import THINGS, Scene, Thing, draw_scene
from rl4vlm.evaluate import evaluate
from rl4vlm.rollout import OracleActor, RandomActor, play
from rl4vlm.statistics import summarise
from rl4vlm.tasks import make_task

ROOT = Path(__file__).resolve().parent.parent


def oracle_turns(env, seed):
    "Turns that the planner needs in our environment, or None where it fails."
    _, info = env.reset(seed=seed)
    for turn in range(1, 51):
        command = env.plan()[0]
        assert command in useful(info["admissible_commands"], info["scene"].place)
        _, reward, terminated, truncated, info = env.step(command)
        assert info["is_legal_action"]
        if terminated: return turn if info["won"] and info["goal_condition_success_rate"] == 1 and reward > 50 else None
    return None


# --- games ---

@pytest.mark.parametrize("kind", TYPES)
def test_oracle_wins_every_type(kind):
    env = ALFWorldEnv(types=kind)
    assert all(oracle_turns(env, seed) for seed in range(3))
    env.close()


@pytest.mark.full
@pytest.mark.parametrize("kind", TYPES)
def test_oracle_wins_twenty_seeds_of_every_type(kind):
    env = ALFWorldEnv(types=kind)
    assert [seed for seed in range(20) if not oracle_turns(env, seed)] == []
    env.close()


@pytest.mark.parametrize("kind", TYPES)
def test_games_make_sense_in_every_size(kind):
    for places in PLACES[::6]:
        for seed in range(15):
            game = make_game(kind, seed, places)
            assert game == make_game(kind, seed, places)
            assert sum("(receptacleAtLocation " in line and " loc" in line
                       for line in game.problem.splitlines()) == places
            assert game.object.lower() in game.task and (game.lamp or game.place).lower() in game.task
            assert game.object.lower() in THINGS                          # can be drawn
            goal = [line for line in game.problem.splitlines()
                    if "inReceptacle" in line and f"{game.object}_bar" in line]
            assert len(goal) == 1 + (kind == "two")
            assert not any(f" {game.place}_bar" in line for line in goal if game.place)   # not there already
    assert len({make_game(kind, s).problem for s in range(20)}) == 20


def test_every_thing_of_every_room_can_be_drawn():
    assert {t.lower() for _, things in ROOMS.values() for t in things} <= set(THINGS)


def test_games_and_plans_are_the_same_in_every_process():
    code = """
import hashlib
from rl4vlm.envs.alfworld import ALFWorldEnv
env, said = ALFWorldEnv(places=7), []
for seed in range(4):
    image, info = env.reset(seed=seed)
    while not env.over:
        command = env.plan()[0]
        drawn = hashlib.md5(image.tobytes()).hexdigest()
        said.append((command, info["observation_text"], info["admissible_commands"], drawn))
        image, *_, info = env.step(command)
print(hashlib.md5(repr(said).encode()).hexdigest())
"""
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              env=dict(os.environ, PYTHONHASHSEED=h)).stdout for h in ("1", "2")}
    assert len(outputs) == 1 and len(outputs.pop()) == 33


def test_engine_leaves_the_process_as_it_was(capsys):
    argv, out, home = list(sys.argv), sys.stdout, os.environ.get("ALFWORLD_DATA")
    engine = Engine()
    engine.start(make_game("pick", 0, 5)); engine.plan(); engine.close(); engine.close()
    with pytest.raises(RL4VLMError, match="cannot read game broken"):
        Engine().start(Game("pick", "", "Apple", "Fridge", "", "(define (problem", "broken"))
    assert sys.argv == argv and sys.stdout is out and os.environ.get("ALFWORLD_DATA") == home
    assert capsys.readouterr().out == ""


def test_several_engines_in_one_process_do_not_mix():
    engines, games = [Engine() for _ in range(3)], [make_game("pick", seed, 6) for seed in range(3)]
    for engine, game in zip(engines, games): engine.start(game)
    plans = [engine.plan() for engine in engines]
    for step in range(max(map(len, plans))):
        for engine, plan in zip(engines, plans):
            if step < len(plan): engine.do(plan[step])
    assert all(engine.won() for engine in engines)


def test_our_engine_is_textworld_s(tmp_path):
    "The same commands, words and end as TextWorld's own environment with ALFWorld's names."
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv
    ours, random = Engine(), np.random.default_rng(0)
    for kind in ("heat", "look"):
        game = make_game(kind, 3, 6)
        write_game(game, tmp_path/kind, ours)
        theirs = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True, feedback=True, won=True)))
        argv = sys.argv
        theirs.load(str(tmp_path/kind/"game.tw-pddl"))
        state, words = theirs.reset(), ours.start(game)
        assert words == state.feedback
        plan = ours.plan()
        for command in [str(random.choice(sorted(ours.commands))) for _ in range(3)] + ["fly"] + plan:
            words, (state, _, done) = ours.do(command), theirs.step(command)
            assert words == state.feedback
            assert sorted(ours.commands) == [c.strip() for c in state.admissible_commands] and ours.won() == done
        sys.argv = argv


# --- folders ---

def test_alfworld_s_own_loader_plays_our_folder(tmp_path, rl4vlm):
    out = rl4vlm("alfworld", "generate", tmp_path/"games", "--n", 7, "--types", "pick,clean,look", "--seed", 3,
                 "--places", 5).stdout
    assert "7 games" in out and len(list((tmp_path/"games").rglob("game.tw-pddl"))) == 7
    code = f"""
import os; os.environ["ALFWORLD_DATA"] = {str(tmp_path/"data")!r}
import json, textworld, textworld.gym
from alfworld.agents.environment import get_environment
config = dict(dataset=dict(data_path={str(tmp_path/"games")!r}, num_train_games=-1),
              env=dict(goal_desc_human_anns_prob=0.0, task_types=[1, 2, 3, 4, 5, 6], domain_randomization=False,
                       expert_type="planner"),
              general=dict(training_method="dqn"), rl=dict(training=dict(max_nb_steps_per_episode=50)))
env = get_environment("AlfredTWEnv")(config, train_eval="train")
assert env.num_games == 7, env.num_games
if __name__ == "__main__":
    played = env.init_env(batch_size=1)
    observation, info = played.reset()
    for command in json.load(open(info["extra.gamefile"][0]))["walkthrough"]:
        observation, scores, dones, info = played.step([command])
    assert info["won"] == (True,) or info["won"] == [True], info["won"]
    played.close()
"""
    (tmp_path/"loader.py").write_text(code)
    done = subprocess.run([sys.executable, "loader.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_folder_is_kept_and_played_by_seed(tmp_path):
    made = generate_games(tmp_path, 6, "pick,heat", seed=1, places=5)
    before = [(m/"game.tw-pddl").stat().st_mtime_ns for m in made]
    assert generate_games(tmp_path, 6, "pick,heat", seed=1, places=5) == made
    assert [(m/"game.tw-pddl").stat().st_mtime_ns for m in made] == before
    assert len(find_games(tmp_path)) == 6 and len(find_games(tmp_path, "heat")) == 3
    task = make_task("ALFWorld", games=str(tmp_path), types="heat")
    rows, episodes = evaluate(task, OracleActor(task), range(8), envs=2)
    assert rows["success"] == 1 and {e.info["task_type"] for e in episodes} == {TYPES["heat"]}
    assert len({e.info["game"] for e in episodes}) > 1


def test_alfworld_data_is_used_when_it_is_there(tmp_path, monkeypatch):
    generate_games(tmp_path/"json_2.1.1"/"valid_seen", 4, "cool", places=5)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    env = ALFWorldEnv(games="valid_seen")
    assert oracle_turns(env, 0)
    with pytest.raises(UsageError, match="no games under .*valid_unseen.*alfworld-download"):
        ALFWorldEnv(games="valid_unseen")


def test_games_that_cannot_be_played_are_named(tmp_path, monkeypatch):
    [folder] = generate_games(tmp_path, 1, "pick", places=5)
    data = json.loads((folder/"game.tw-pddl").read_text())
    (folder/"game.tw-pddl").write_text(json.dumps(dict(data, solvable=False)))
    with pytest.raises(RL4VLMError, match="cannot be solved"): read_game(folder)
    with pytest.raises(UsageError, match="1 of other types or unsolvable"): find_games(tmp_path)
    thing = json.loads((folder/"traj_data.json").read_text())["pddl_params"]["object_target"]
    # nothing of the kind is left
    problem = data["pddl_problem"].replace(f"{thing}_bar_01 {thing}Type", f"{thing}_bar_01 KnifeType")
    (folder/"game.tw-pddl").write_text(json.dumps(dict(data, pddl_problem=problem)))
    with pytest.raises(RL4VLMError, match="cannot be solved: nothing in it can fulfil its goal"):
        ALFWorldEnv(games=str(tmp_path)).reset(seed=0)
    with pytest.raises(RL4VLMError, match="cannot be solved"): write_game(read_game(folder), tmp_path/"again", Engine())
    monkeypatch.setattr(Engine, "plan", lambda self: [])
    with pytest.raises(RL4VLMError, match="the planner finds no way to its goal"):
        write_game(make_game("pick", 0, 5), tmp_path/"again", Engine())
    with pytest.raises(RL4VLMError, match="the planner finds no way to its goal"): ALFWorldEnv(places=5).reset(seed=0)
    trajectory = json.loads((folder/"traj_data.json").read_text())
    (folder/"traj_data.json").write_text(json.dumps(dict(trajectory, task_type="pick_and_place_with_movable_recep")))
    with pytest.raises(UsageError, match="pick_and_place_with_movable_recep; only"): read_game(folder)


def test_a_foreign_grammar_is_never_run(tmp_path):
    [folder] = generate_games(tmp_path, 1, "pick", places=5)
    data = json.loads((folder/"game.tw-pddl").read_text())
    touch = "{__import__('pathlib').Path('%s').touch()} " % (tmp_path/"pwned")
    evil = data["grammar"].replace("Your task is to: ", "Your task is to: " + touch)
    evil = evil.replace("You open the {r.name}", "{__import__('os').abort()}")
    (folder/"game.tw-pddl").write_text(json.dumps(dict(data, grammar=evil, pddl_domain="(define (domain nothing))")))
    env = ALFWorldEnv(games=str(tmp_path))
    assert oracle_turns(env, 0) and not (tmp_path/"pwned").exists()


@pytest.mark.parametrize("arguments, says",
                         [(["alfworld"], "rl4vlm alfworld generate OUT"),
                          (["alfworld", "generate"], "generate OUT"), (["alfworld", "make", "x"], "generate OUT"),
                          (["alfworld", "generate", "x", "--types", "pikc"], "did you mean 'pick'?"),
                          (["alfworld", "generate", "x", "--n", "0"], "n"),
                          (["alfworld", "generate", "x", "--places", "99"], "from 4 to 22")])
def test_wrong_commands(rl4vlm, arguments, says):
    assert says in rl4vlm(*arguments, code=2).stderr


# --- what is missing ---

def test_a_missing_engine_is_told_with_what_to_do(monkeypatch):
    found = games_module.importlib.util.find_spec
    monkeypatch.setattr(games_module.importlib.util, "find_spec",
                        lambda name: None if name == "textworld" else found(name))
    with pytest.raises(UsageError, match=r"pip install .*\[alfworld\]"): make_task("ALFWorld").make_env()
    monkeypatch.setattr(games_module.shutil, "which", lambda tool: None if tool == "g++" else tool)
    with pytest.raises(UsageError, match="g\\+\\+ is not on the PATH"): games_module.require_alfworld()


def test_the_modules_import_without_the_engine():
    code = """
import sys
sys.modules.update(alfworld=None, textworld=None, fast_downward=None)
import importlib.util as u
real, hidden = u.find_spec, ("alfworld", "textworld", "fast_downward")
u.find_spec = lambda n, *a: None if n in hidden else real(n, *a)
from rl4vlm.tasks import make_task
import rl4vlm.envs.alfworld, rl4vlm.envs.alfworld_thor
try: rl4vlm.envs.alfworld.ALFWorld().make_env()
except Exception as e: print(type(e).__name__, e)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "UsageError ALFWorld's engine is not installed" in said


def test_the_package_declares_it():
    import tomllib
    project = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    extras, entries = project["optional-dependencies"], project["entry-points"]["rl4vlm.tasks"]
    assert "alfworld==0.4.2" in extras["alfworld"]
    assert any("alfworld" in line for line in extras["dev"]) and "rl4vlm[alfworld]" in extras["alfworld-thor"]
    assert {k: v for k, v in entries.items() if "alf" in k.lower()} == dict(
        ALFWorld="rl4vlm.envs.alfworld:ALFWorld", ALFWorldPick="rl4vlm.envs.alfworld:ALFWorldPick",
        AlfThor="rl4vlm.envs.alfworld_thor:AlfThor")


# --- scene, reward, commands ---

def test_a_closed_door_hides_what_is_behind_it():
    facts = dict(receptacleatlocation=[("fridge 1", "l1"), ("shelf 10", "l2"), ("shelf 2", "l3")],
                 openable=[("fridge 1",)], opened=[], inreceptacle=[("apple 2", "fridge 1"), ("mug 1", "shelf 2")],
                 holds=[("agent1", "egg 1")], ishot=[("egg 1",)], iscool=[("apple 2",)], isclean=[], istoggled=[])
    closed, opened = scene_of(facts, "fridge 1"), scene_of(dict(facts, opened=[("fridge 1",)]), "fridge 1")
    assert (closed.opened, closed.things) == (False, ()) and opened.things == (Thing("apple 2", ("cold",)),)
    assert closed.held == Thing("egg 1", ("hot",)) and closed.places == ("fridge 1", "shelf 2", "shelf 10")
    assert scene_of(facts, "shelf 10").opened is None and scene_of(facts, "").things == ()


def test_what_is_drawn_is_what_the_engine_says():
    "The scene against the words of the engine, over random play."
    env, random = ALFWorldEnv(), np.random.default_rng(1)
    for seed in range(4):
        _, info = env.reset(seed=seed)
        for _ in range(40):
            if env.over: break
            here = [c for c in info["admissible_commands"] if not c.startswith("go to")]
            command = str(random.choice(here if random.random() < 0.6 else info["admissible_commands"]))
            image, *_, info = env.step(command)
            scene = info["scene"]
            assert (image == draw_scene(scene)).all()
            if not scene.place: continue
            told = env.engine.do(f"examine {scene.place}")
            if scene.opened is False: assert told == f"The {scene.place} is closed."
            else:
                assert {t.name for t in scene.things} == {w.removeprefix("and ").removeprefix("a ").rstrip(".")
                                                          for w in told.split("you see ")[1].split(", ")} - {"nothing"}
            held = env.engine.do("inventory")
            assert (scene.held.name in held) if scene.held else "not carrying" in held


def test_rewards_mended_and_published():
    for kind in TYPES:
        totals = {}
        for form in ("mended", "published"):
            env = ALFWorldEnv(types=kind, places=6, reward=form)
            env.reset(seed=1)
            rates, rewards = [env.rate], []
            for command in [*env.plan()[:-1], "look", "dance"]:
                rewards.append(env.step(command)[1]); rates.append(env.rate)
            rewards.append(env.step(env.plan()[0])[1]); rates.append(env.rate)
            expected = np.diff(rates) if form == "mended" else np.array(rates[1:])
            expected[-1] += 50; expected[-2] -= 1
            assert np.allclose(rewards, expected)
            totals[form] = sum(rewards)
        assert totals["mended"] == pytest.approx(50) and totals["published"] >= totals["mended"]


def test_goal_rate_counts_alfworld_s_conditions():
    facts = dict(objecttype=[("mug 1", "mugtype"), ("mug 2", "mugtype"), ("lamp 1", "desklamptype")],
                 receptacletype=[("shelf 1", "shelftype"), ("shelf 2", "shelftype"), ("desk 1", "desktype")],
                 inreceptacle=[("mug 1", "shelf 1"), ("lamp 1", "desk 1")], isclean=[("mug 2",)], ishot=[],
                 iscool=[], istoggled=[("lamp 1",)], holds=[("agent1", "mug 2")],
                 atlocation=[("agent1", "l1")], receptacleatlocation=[("desk 1", "l1"), ("shelf 1", "l2")])
    rate = lambda kind, **changes: goal_rate({**facts, **changes}, Game(kind, "", "Mug", "Shelf", "DeskLamp", ""))
    assert rate("pick") == 1 and rate("two") == 0.5
    assert rate("two", inreceptacle=[("mug 1", "shelf 1"), ("mug 2", "shelf 2")]) == 0.5   # in two different shelves
    assert rate("two", inreceptacle=[("mug 1", "shelf 1"), ("mug 2", "shelf 1")]) == 1
    assert rate("clean") == pytest.approx(2/3)
    assert rate("clean", isclean=[("mug 1",)]) == 1 and rate("heat") == pytest.approx(1/3)
    assert rate("look") == 1 and rate("look", istoggled=[]) == 0.5
    assert rate("look", atlocation=[("agent1", "l2")]) == 0.5 and rate("look", holds=[]) == 0.5


def test_ends():
    env = ALFWorldEnv(places=5, max_steps=3)
    with pytest.raises(Exception, match="call reset"): env.step("look")
    env.reset(seed=0)
    ends = [env.step(c)[2:4] for c in ("look", "nonsense", "look")]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(Exception, match="call reset"): env.step("look")
    for bad in (None, 3, ["look"]):
        env.reset(seed=0)
        with pytest.raises(ValueError, match="a command is text"): env.step(bad)


def test_commands_are_case_sensitive_and_only_whole():
    env = ALFWorldEnv(types="pick", places=22)
    _, info = env.reset(seed=0)
    *_, info = env.step("Go to " + info["scene"].places[0])
    assert not info["is_legal_action"] and info["observation_text"] == "Nothing happens."
    task = make_task("ALFWorld", types="pick", places=22)
    frame = TaskEnv(task).reset(0)
    for place in frame.info["scene"].places:
        assert task.parse(f'{{"action": "Go to {place}."}}', frame.actions).action == f"go to {place}"
    assert task.parse('{"action": "go to cabinet 99"}', frame.actions).cause == "unknown_action"


# --- the task ---

def test_prompts_are_short_and_complete():
    for name, most in [("ALFWorld", 260), ("ALFWorldPick", 210)]:
        task = make_task(name)
        env = TaskEnv(task, oracle=True)
        for seed in range(3):
            frame, ended = env.reset(seed), False
            while not ended:
                text = task.prompt(frame)[0]["content"][-1]["text"]
                assert f"Task: {frame.info['task']}.\n" in text
                assert all(f'"{a}"' in text for a in frame.actions) and len(text.split()) < most
                assert frame.suggestion in frame.actions
                assert task.parse(task.answer(frame.suggestion, frame.info), frame.actions).action == frame.suggestion
                frame, _, terminated, truncated = env.step(frame.suggestion)
                ended = terminated or truncated


def test_long_lists_are_cut_at_places_to_go():
    task = make_task("ALFWorld", types="heat", places=22, max_commands=8)
    env = TaskEnv(task, oracle=True)
    frame = env.reset(3)
    for _ in range(5):
        menu = task.menu(frame.actions)
        assert menu.count('"') == 16 and f"and {len(frame.actions) - 8} more" in menu
        assert all(f'"{a}"' in menu for a in frame.actions if not a.startswith("go to"))
        # what is not listed is accepted
        assert task.parse(f'{{"action": "{frame.actions[-1]}"}}', frame.actions).action == frame.actions[-1]
        frame, *_ = env.step(frame.suggestion)


def test_text_only_shows_the_scene_in_words(monkeypatch):
    monkeypatch.setattr("rl4vlm.envs.alfworld.draw_scene", lambda scene: pytest.fail("nobody looks at this image"))
    task = make_task("ALFWorldPick", text_only=True, told=True)
    env = TaskEnv(task, oracle=True)
    frame = env.reset(0)
    frame, *_ = env.step(frame.suggestion)
    text = task.prompt(frame)[0]["content"]
    assert len(text) == 1 and frame.images == [] and f"Now: {frame.text}" in text[0]["text"]
    assert "image" not in text[0]["text"] and f"You read: {frame.info['observation_text']}" in text[0]["text"]


def test_success_by_type_is_reported():
    task = make_task("ALFWorld", types="pick,two", places=5)
    episodes = play(task, OracleActor(task), range(6), envs=2)
    row = summarise(episodes)
    assert row["success_pick"] == row["success_two"] == row["goal_conditions"] == 1
    episodes[0].columns, episodes[1].columns = dict(success_pick=0.0), dict(success_two=1.0)
    assert summarise(episodes[:2])["success_pick"] == 0 and summarise(episodes[:2])["success_two"] == 1
    assert "success_pick" not in summarise(play(make_task("ALFWorldPick"), OracleActor(make_task("ALFWorldPick")), [0]))


def test_random_play_seldom_wins():
    for name, options in [("ALFWorldPick", {})]:
        task = make_task(name, **options)
        assert evaluate(task, RandomActor(task), range(40), envs=8, keep_images=0)[0]["success"] <= 0.2


@pytest.mark.full
@pytest.mark.parametrize("kind", TYPES)
def test_random_play_wins_less_than_fifteen_percent(kind):
    task = make_task("ALFWorld", types=kind)
    assert evaluate(task, RandomActor(task), range(100), envs=10, keep_images=0, workers=2)[0]["success"] < 0.15


@pytest.mark.parametrize("wrong, says", [(dict(types="heet"), "did you mean 'heat'"), (dict(types=""), "no type"),
                                         (dict(types=[]), "no type"), (dict(max_commands=0), "1 or more")])
def test_wrong_options(wrong, says):
    with pytest.raises(UsageError, match=says): make_task("ALFWorld", **wrong)


@pytest.mark.parametrize("wrong, says",
                         [(dict(places=3), "from 4 to 22"), (dict(things=-1), "from 0 to 60"),
                          (dict(reward="shaped"), "mended or published"), (dict(max_turns=0), "1 or more"),
                          (dict(games="nowhere"), "no games under nowhere")])
def test_wrong_options_of_the_environment(wrong, says):
    with pytest.raises(UsageError, match=says): make_task("ALFWorld", **wrong).make_env()


# --- the view ---

def test_images_differ_where_it_matters():
    base = Scene("fridge 1", True, (Thing("apple 1"), Thing("mug 1")), None, ("fridge 1", "shelf 1"))
    from dataclasses import replace
    variants = [base, replace(base, opened=False), replace(base, place="shelf 1", opened=None),
                replace(base, place="fridge 2"), replace(base, things=base.things[:1]),
                replace(base, things=(Thing("apple 1", ("hot",)), base.things[1])),
                replace(base, things=(Thing("apple 1", ("cold",)), base.things[1])),
                replace(base, things=(Thing("apple 1", ("clean",)), base.things[1])),
                replace(base, held=Thing("egg 1")), replace(base, held=Thing("egg 1", ("hot",))),
                replace(base, place="")]
    images = [draw_scene(v).tobytes() for v in variants]
    assert len(set(images)) == len(images)
    for odd in (Scene("unheard-of thing 3", None, tuple(Thing(f"gadget {i}") for i in range(40))), Scene(), Scene("x"),
                Scene("shelf 1", None, (Thing("mug"),))):
        assert draw_scene(odd).shape == (300, 300, 3)


# --- leaks and hangs ---

def test_two_hundred_episodes_do_not_grow(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent/"scripts"/"benchmarks")
    from household import growth
    grown = growth()
    assert grown < 12, f"{grown:.1f} MB in 200 episodes"


def test_a_hanging_engine_is_counted_and_nothing_is_left(tmp_path):
    from rl4vlm.envs.alfworld import ALFWorld
    class Hanging(ALFWorld):
        types, places = "pick", 5
        def to_env(self, action, info):
            import time
            if info["scene"].place: time.sleep(60)       # as an engine that does not come back from its second command
            return action
    pool = EnvPool(Hanging(), 2, workers=1, timeout=120)
    process = pool.workers[0].process
    frames = pool.reset({0: 0, 1: 1})
    frames = {i: r[0] for i, r in pool.step({i: f.actions[0] for i, f in frames.items()}).items()}
    pool.workers[0].timeout = 3
    with pytest.warns(RuntimeWarning, match="no answer within 3 s"):
        assert pool.step({0: frames[0].actions[0]}) == {0: None, 1: None}
    assert pool.lost == 2 and process.poll() is not None
    pool.workers[0].timeout = 120
    assert pool.reset({0: 0})[0].text                     # a fresh worker goes on
    pool.close()


def test_a_pool_in_workers_plays_the_same():
    task = make_task("ALFWorldPick")
    def run(workers):
        pool = EnvPool(task, 4, oracle=True, workers=workers)
        frames, said = pool.reset({i: i for i in range(4)}), []
        for _ in range(3):
            said.append([(f.text, f.actions, f.suggestion) for f in frames.values()])
            frames = {i: r[0] for i, r in pool.step({i: f.suggestion for i, f in frames.items()}).items()}
        pool.close()
        return said
    assert run(0) == run(2)
