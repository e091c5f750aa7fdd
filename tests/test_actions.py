("Actions of every kind: parsed from whatever a model writes, played, stored, resumed, trained on; "
 "wrong ones counted by cause.")
import json
import os
import random
from collections import Counter
import gymnasium as gym
import numpy as np
import pytest
from rl4vlm.actions import Actions, Calls, FreeText, Number, OneOf, Point, Several, Text, Vector, call_of, round_trip
from rl4vlm.core import UsageError
from rl4vlm.env_pool import TaskEnv
from rl4vlm.parsing import CAUSES, make_tool_call
from rl4vlm.rollout import Actor, OracleActor, Plan, Player, RandomActor, play
from rl4vlm.store import EpisodeStore
from rl4vlm.tasks import Task
from rl4vlm.types import Response

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")   # pygame needs no screen to draw

SCREEN = Calls(click=dict(at=Point(64, 48)), type=dict(text=Text(20), how=OneOf(("once", "twice"))),
               turn=dict(by=Number(-90, 90), times=Number(1, 3, whole=True)), wait={})
KINDS = {
    "one": Actions(["up", "down", "turn left"]),
    "several": Several(["up", "down", "turn left"], most=3), "call": SCREEN, "text": FreeText(30),
    "vector": Vector(gym.spaces.Box(-1, 1, (2,))), "numbers": Vector(gym.spaces.MultiDiscrete([3, 2])),
}
EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# what a model may write

PIECES = ["{", "}", "[", "]", '"', "'", "“", "\\", ":", ",", " ", "\n", "```json\n", '"action"', "action:",
          '"thoughts": "', '"action": "', '"action": {"name": "', '"arguments": {', '"arguments": "',
          '{"name": "click", "arguments": {"at": [3, 4]}}', '"at": [', '"at": [64, 0]', '"at": {"x": 1, "y": 2}', "up",
          "up, ", "down; ", "turn left", "->", "1e999", "-1", "NaN", "null", "true", "9" * 400, "0.5",
          "\x00", "\ud800", "\\u00e9", "\\ud83d", "北", '"a1": 0.5', '"a2": ', "wait", "type", "act", "<tool_call>",
          "once"]

def hostile(kind, source):
    "A text that no parser would like: pieces at random, or a right answer that something was done to."
    if source.random() < 0.4: return "".join(source.choices(PIECES, k=source.randrange(1, 30)))
    text = json.dumps(dict(thoughts="so", action=kind.value(kind.sample(source.randrange(10**6)))))
    for _ in range(source.randrange(1, 4)):
        at, end = source.randrange(len(text) + 1), source.randrange(len(text) + 1)
        text = source.choice([text[:at], text[:at] + source.choice(PIECES) + text[at:],
                              text[:min(at, end)] + text[max(at, end):], text + text,
                              text[:at] + chr(source.randrange(1, 0x2ff)) + text[at + 1:]])
    return text[:5000]

def is_valid(kind, action):
    "Whether an action is one of its kind, found out without its parser."
    if isinstance(kind, Several):
        return 1 <= len(names := action.split(", ")) <= kind.most and set(names) <= set(kind.known)
    if isinstance(kind, FreeText): return 0 < len(action) <= 30
    if not isinstance(kind, Calls): return action in kind
    name, given = call_of(action)
    def fits(k, v):
        if isinstance(k, Point):
            return (isinstance(v, list) and [type(x) for x in v] == [int, int] and 0 <= v[0] < k.width
                    and 0 <= v[1] < k.height)
        if isinstance(k, Number): return type(v) in ((int,) if k.whole else (int, float)) and k.low <= v <= k.high
        return v in k.names if isinstance(k, OneOf) else isinstance(v, str) and len(v) <= k.most
    return list(given) == list(kind.functions[name]) and all(fits(k, given[a]) for a, k in kind.functions[name].items())

HOSTILE = int(os.environ.get("RL4VLM_HOSTILE", 2000))   # answers of each kind; 50 000 were run once

@EACH
def test_hostile_answers_get_an_action_or_a_cause(kind):
    source, found = random.Random(0), Counter()
    for _ in range(HOSTILE):
        text, cut = hostile(kind, source), source.random() < 0.3
        parsed = kind.parse(text, cut=cut)
        assert (parsed.action is None) == (parsed.cause in CAUSES), text
        if parsed.action is not None:
            assert is_valid(kind, parsed.action), (text, parsed)
            assert round_trip(kind, parsed.action).action == parsed.action, text
        if parsed.span: assert 0 <= parsed.span[0] < parsed.span[1] <= len(text)
        found[parsed.cause or "an action"] += 1
    print(dict(found.most_common()))
    assert len(found) > 4 and found["an action"] > HOSTILE / 50   # neither all nor none is readable


@pytest.mark.parametrize("said, cause", [
    ('{"action": {"name": "click", "arguments": {"at": [64, 10]}}}', "outside_image"),
    ('{"action": {"name": "click", "arguments": {"at": [-1, 10]}}}', "outside_image"),
    ('{"action": {"name": "click", "arguments": {"at": "the button"}}}', "wrong_type"),
    ('{"action": {"name": "click", "arguments": {"at": [1, 2, 3]}}}', "wrong_type"),
    ('{"action": {"name": "turn", "arguments": {"by": "left", "times": 1}}}', "wrong_type"),
    ('{"action": {"name": "turn", "arguments": {"by": 91, "times": 1}}}', "out_of_range"),
    ('{"action": {"name": "turn", "arguments": {"by": 1, "times": 1.5}}}', "wrong_type"),
    ('{"action": {"name": "turn", "arguments": {"by": 1}}}', "missing_argument"),
    ('{"action": {"name": "wait", "arguments": {"by": 1}}}', "extra_argument"),
    ('{"action": "click"}', "missing_argument"), ('{"action": "tap"}', "wrong_tool"),
    ('{"action": {"name": "type", "arguments": {"text": "%s", "how": "once"}}}' % ("x" * 21), "too_long"),
    ('{"action": {"name": "type", "arguments": {"text": "x", "how": "often"}}}', "unknown_action"),
    ('{"action": [{"name": "wait"}, {"name": "wait"}]}', "too_many"),
    ('{"name": "wait", "arguments": {}} {"name": "click", "arguments": {"at": [1, 2]}}', "ambiguous"),
    ('{"action": 7}', "wrong_type"), ("click at 3, 4", "no_json"),
    ('{"action": {"name": "click", "arguments": {"at": [1, 2', "unknown_action"),
])
def test_wrong_calls_are_counted_by_cause(said, cause): assert SCREEN.parse(said).cause == cause


@pytest.mark.parametrize("said, cause", [
    ('{"action": "up, up, up, up"}', "too_many"), ('{"action": ["up", "up", "up", "up"]}', "too_many"),
    ('{"action": "up, jump"}', "unknown_action"), ('{"action": ["up", ["down"]]}', "unknown_action"),
    ('{"action": ""}', "unknown_action"), ('{"action": ","}', "unknown_action"),
    ('{"action": {"up": 1}}', "unknown_action"), ("up, down", "no_json"), ('{"action": "up or down, up"}', "ambiguous"),
    ('{"action": "up, up', "unknown_action"),
])
def test_wrong_lists_are_counted_by_cause(said, cause): assert KINDS["several"].parse(said).cause == cause


@EACH
def test_nothing_is_read_across_the_token_limit(kind):
    answer = json.dumps(dict(action=kind.value(kind.sample(3))))
    for end in range(1, len(answer) - 1): assert kind.parse(answer[:end], cut=True).action in (None, kind.sample(3))
    assert kind.parse(answer[:len(answer) // 2], cut=True).cause is not None


@EACH
def test_an_error_of_the_oracle_is_another_action(kind):
    for seed in range(100):
        best = kind.sample(seed)
        assert is_valid(kind, other := kind.other(best, seed)) and other != best


# played by real environments

class Line(gym.Env):
    "A marker on a line of nine cells; an action moves it and presses it, or says a word."
    metadata, render_mode = {"render_modes": ["rgb_array"], "render_fps": 4}, "rgb_array"
    observation_space = gym.spaces.Discrete(9)
    def __init__(self, space, render_mode="rgb_array"): self.action_space = space
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.seen = int(self.np_random.integers(9)), []
        return self.place, {}
    def render(self):
        image = np.zeros((24, 90, 3), np.uint8)
        image[:, 10 * self.place:10 * self.place + 10] = 255
        return image
    def step(self, action):
        self.seen.append(action)
        self.place = (min(8, self.place + 1) if np.sum(action if not isinstance(action, (str, tuple)) else 1) > 0
                      else max(0, self.place - 1))
        return self.place, float(self.place == 8), self.place == 8, False, dict(seen=list(self.seen))

gym.register("TestLine-v0", entry_point=Line)

def task_of(space, actions=None, **more):
    return type("Marker", (Task,), dict(env_id="TestLine-v0", env_kwargs=dict(space=space), actions=actions,
                                        goal="Go right.", max_turns=6, **more))()

SPACES = {"discrete": gym.spaces.Discrete(3), "from one": gym.spaces.Discrete(3, start=1),
          "several numbers": gym.spaces.MultiDiscrete([3, 2]), "box": gym.spaces.Box(-1, 1, (2,)),
          "bytes": gym.spaces.Box(0, 3, (2, 2), np.uint8)}
def called(self, action, info): name, given = call_of(action); return len(name)
TASKS = {**{name: task_of(space) for name, space in SPACES.items()}, "text": task_of(gym.spaces.Text(30), FreeText(30)),
         "several": task_of(gym.spaces.Discrete(2), Several(["left", "right"], most=4)),
         "call": task_of(gym.spaces.Discrete(99), Calls(click=dict(at=Point()), wait={}), to_env=called)}
PLAYED = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@PLAYED
@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_is_played_and_stored(task, workers, tmp_path):
    episodes = play(task, RandomActor(task), range(6), envs=3, workers=workers)
    turns = [t for e in episodes for t in e.turns]
    assert not any(t.cause for t in turns) and len({t.action for t in turns}) >= 2
    assert all(t.span and '"action"' in t.text[slice(*t.span)] for t in turns)       # what λ weighs
    EpisodeStore(tmp_path).write(episodes)
    rows, light = EpisodeStore(tmp_path).read(), EpisodeStore(tmp_path).episodes()
    assert rows["action"] == [t.action for t in turns]
    assert rows["steps"] == [t.steps for t in turns] and rows["span"] == [list(t.span) for t in turns]
    assert ([[(t.action, t.played, t.steps, t.reward) for t in e.turns] for e in light]
            == [[(t.action, t.played, t.steps, t.reward) for t in e.turns] for e in episodes])


def test_the_environment_gets_what_its_space_holds():
    for name, space in SPACES.items():
        task = TASKS[name]
        [episode] = play(task, RandomActor(task), [3])
        assert all(space.contains(a) for a in episode.info["seen"]), name
    [episode] = play(TASKS["text"], RandomActor(TASKS["text"]), [3])
    assert episode.info["seen"] == [t.action for t in episode.turns]


def test_prompts_say_what_may_be_answered():
    def asked(name): env = TaskEnv(TASKS[name]); return TASKS[name].prompt(env.reset(0))[0]["content"][-1]["text"]
    assert "act(a1: a number from -1 to 1, a2: a number from -1 to 1)" in asked("box")
    assert "a2: a whole number from 0 to 1" in asked("several numbers")
    assert "click(at: a point [x, y] of the image, x from 0 to 89, y from 0 to 23); wait()" in asked("call")
    assert asked("several").endswith('"action": (1 to 4 of the actions in order, with commas between)}')
    assert asked("text").endswith('"action": (a text, at most 30 characters)}')
    assert 'Actions: "1", "2", "3"' in asked("from one")


def test_several_steps_stop_at_the_end_and_are_counted():
    class Right(Actor):
        name = "right"
        def act(self, prompts): return [Response('{"action": "right, right, right, right"}')] * len(prompts)
    task = TASKS["several"]
    for episode in play(task, Right(), range(9)):
        start = TaskEnv(task).reset(episode.seed).observation
        assert sum(t.steps for t in episode.turns) == episode.columns["env_steps"] == max(8 - start, 1)
        assert len(episode) == -(-max(8 - start, 1) // 4)
        assert episode.turns[-1].terminated and episode.total_reward == 1.0


def test_an_answer_that_is_refused_takes_no_step():
    class Mumbler(Actor):
        name = "mumbler"
        def act(self, prompts): return [Response('{"action": "right, up"}')] * len(prompts)
    task = task_of(gym.spaces.Discrete(2), Several(["left", "right"]), invalid="noop")
    [episode] = play(task, Mumbler(), [0])
    assert {(t.cause, t.steps, t.played) for t in episode.turns} == {("unknown_action", 0, None)}
    assert episode.columns["env_steps"] == 0


@PLAYED
def test_a_player_goes_on_where_it_was(task):
    endless = lambda i, k: Plan(100 * i + k, (0, i, k))
    first, second = (Player(task, RandomActor(task), endless, envs=3) for _ in range(2))
    first.rollout(4)
    second.restore(json.loads(json.dumps(first.state())))
    a, b = first.rollout(4), second.rollout(4)
    assert ([[(t.text, t.reward, t.steps, t.index) for t in row] for row in a]
            == [[(t.text, t.reward, t.steps, t.index) for t in row] for row in b])


def test_an_oracle_that_errs():
    class Led(type(TASKS["several"])):
        def oracle(self, env, info): return "right, right"
    task = Led()
    rate = np.mean([t.action != "right, right" for e in play(task, OracleActor(task, 0.4), range(60)) for t in e.turns])
    assert 0.3 < rate < 0.5


# mistakes of a task's author

@pytest.mark.parametrize("space, actions, says", [
    (gym.spaces.Box(-np.inf, np.inf, (2,)), None, "no actions follow from Box.*override to_env"),
    (gym.spaces.Dict(a=gym.spaces.Discrete(2)), None, "no actions follow from Dict"),
    (gym.spaces.Discrete(2), Several(["left", "right", "up"]),
     r"names 3 actions \(left, right, up\) but TestLine-v0 has Discrete\(2\)"),
    (gym.spaces.Discrete(2), Calls(wait={}), "override to_env"),
])
def test_actions_that_do_not_fit_are_named(space, actions, says):
    with pytest.raises(UsageError, match=says): TaskEnv(task_of(space, actions))


def test_wrong_declarations_are_named():
    for make, says in [(lambda: Several(["a, b"]), "hold no comma"), (lambda: Several(["a"], most=0), "1 or more"),
                       (lambda: Calls(), "needs a function"), (lambda: Calls(a=dict(b=1)), "argument b of a"),
                       (lambda: Number(2, 1), "two finite bounds"),
                       (lambda: Several([]) and None or task_of(gym.spaces.Discrete(2), Several([])),
                        "allows no action")]:
        with pytest.raises(UsageError, match=says): make()


def test_fewer_names_stay_of_their_kind():
    task = TASKS["several"]
    fewer = type(task)(actions=["right"])
    assert isinstance(fewer.actions, Several) and fewer.actions.most == 4 and list(fewer.actions) == ["right"]
    class Half(type(task)):
        def allowed(self, info): return ["left"]
    frame = TaskEnv(Half()).reset(0)
    assert isinstance(frame.actions, Several)
    assert frame.actions.parse('{"action": "left, right"}').action == "left, right"
    assert frame.actions.parse('{"action": "right"}').cause == "unknown_action"


def test_calls_are_quoted_in_short():
    from rl4vlm.types import PastTurn
    task = TASKS["call"]
    env = TaskEnv(task)
    frame = env.reset(0)
    history = type(task)(history=1)
    assert "click(at=[3, 4])" in history.quote([PastTurn(frame, "", make_tool_call("click", at=[3, 4]), 0.0)])
