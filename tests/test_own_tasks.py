"A stranger's environment joins in six lines, by --import or an entry point; mistakes in it are named."
import os
import gymnasium as gym
import numpy as np
import pytest
from rl4vlm.core import UsageError
from rl4vlm.env_pool import TaskEnv
from rl4vlm.rollout import Actor, OracleActor, PolicyActor, RandomActor, play
from rl4vlm.tasks import Task, list_tasks, make_task, register_task
from rl4vlm.types import PastTurn, Response

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")   # pygame needs no screen to draw


class FrozenLake(Task):
    env_id, env_kwargs = "FrozenLake", dict(render_mode="rgb_array", is_slippery=False)
    actions = ["left", "down", "right", "up"]
    goal = "Walk over the ice to the flag. Holes end the game."


class Taxi(Task):
    env_id, env_kwargs = "Taxi", dict(render_mode="rgb_array")
    actions = ["south", "north", "east", "west", "pick up", "drop off"]
    goal = "Fetch the passenger and drive to the hotel."


class CliffWalking(Task):
    env_id, env_kwargs = "CliffWalking", dict(render_mode="rgb_array")
    actions = ["up", "right", "down", "left"]
    goal = "Walk to the cookie without falling off the cliff."


class ThinIceEnv(gym.Env):
    "Breaks in the second step."
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    action_space, observation_space = gym.spaces.Discrete(2), gym.spaces.Discrete(9)
    def __init__(self, render_mode="rgb_array"): self.render_mode = render_mode
    def reset(self, *, seed=None, options=None): super().reset(seed=seed); self.steps = 0; return 0, {}
    def render(self): return np.zeros((8, 8, 3), np.uint8)
    def step(self, action):
        self.steps += 1
        if self.steps == 2: raise RuntimeError("the ice broke")
        return self.steps, 0.0, False, False, {}


gym.register("ThinIce-v0", entry_point=ThinIceEnv)


class ThinIce(Task):
    env_id, actions, goal = "ThinIce-v0", ["stay", "go"], "Do not break the ice."


SIX_LINES = [FrozenLake, Taxi, CliffWalking]


def words(task, frame, history=()): return task.prompt(frame, history)[0]["content"][-1]["text"]


# six lines

@pytest.mark.parametrize("cls", SIX_LINES)
def test_six_lines_show_a_image_and_a_prompt(cls):
    task = cls()
    frame = TaskEnv(task).reset(0)
    [image] = frame.images
    assert image.dtype == np.uint8
    assert image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) >= 100 and image.std() > 0
    text = words(task, frame)
    assert task.goal in text and all(f'"{name}"' in text for name in task.actions)
    assert (sum(part["type"] == "image" for part in task.prompt(frame)[0]["content"]) == len(task.prompt_images(frame))
            == 1)


@pytest.mark.parametrize("cls", SIX_LINES)
def test_parsing_undoes_answering(cls):
    task = cls()
    frame = TaskEnv(task).reset(0)
    assert [task.parse(task.answer(name, frame.info), frame.actions).action for name in frame.actions] == frame.actions
    assert [task.to_env(name, frame.info) for name in task.actions] == list(range(len(task.actions)))


@pytest.mark.parametrize("cls", SIX_LINES)
def test_random_play_works_and_repeats(cls):
    task = cls(max_turns=30)
    one, many = (play(task, RandomActor(task), range(4), envs=n) for n in (1, 3))
    assert ([[(t.played, t.reward) for t in e.turns] for e in one]
            == [[(t.played, t.reward) for t in e.turns] for e in many])
    assert all(e.turns[-1].done and 1 <= len(e) <= 30 and not any(t.cause for t in e.turns) for e in one)
    assert len({t.played for e in one for t in e.turns}) == len(task.actions)


def test_names_reach_the_environment_in_order():
    task = FrozenLake()
    for name, place in dict(left=0, down=4, right=1, up=0).items():
        env = TaskEnv(task)
        env.reset(0)
        assert env.step(name)[0].observation == place


# overrides

class Named(FrozenLake):
    "The state is gathered by `facts`; everything else reads it."
    fields = {"place": "the number of your cell"}
    def facts(self, observation, info, env): return dict(info, place=int(observation), seen=len(info))
    def true_fields(self, info): return dict(place=str(info["place"]))


def test_facts_reach_every_method():
    task = Named()
    env = TaskEnv(task)
    frame = env.reset(0)
    assert frame.info == {"prob": 1, "place": 0, "seen": 1} and frame.text == "place 0"
    assert env.step("down")[0].info["place"] == 4
    assert '"place": "0"' in task.answer("up", frame.info)
    [episode] = play(task, RandomActor(task), [0])
    assert "place" in episode.info


def test_words_alone_are_enough():
    task = Named(env_kwargs=dict(render_mode=None))
    frame = TaskEnv(task).reset(0)
    assert frame.images == [] and "Now: place 0" in words(task, frame)
    assert task.env_kwargs["is_slippery"] is False   # the class's other arguments stay
    assert len(play(task, RandomActor(task), range(3))) == 3


def test_actions_as_a_method():
    class Legal(Named):
        def actions(self, info): return ["right", "down"] if info["place"] == 0 else ["up"]
        def to_env(self, action, info): return ["left", "down", "right", "up"].index(action)
    task = Legal()
    env = TaskEnv(task)
    frame = env.reset(0)
    assert frame.actions == ["right", "down"] and 'Actions: "right", "down"\n' in words(task, frame)
    assert task.parse('{"action": "up"}', frame.actions).cause == "unknown_action"
    after = env.step("right")[0]
    assert after.observation == 1 and after.actions == ["up"]


def test_a_method_of_actions_needs_to_env():
    class Legal(Named):
        def actions(self, info): return ["right", "down"]   # by its place in this list, "right" would go left
    with pytest.raises(UsageError, match=r"must be a list of names.*override to_env\(action, info\) of task Legal"):
        TaskEnv(Legal())


def test_fewer_actions_keep_their_numbers():
    class Legal(Taxi):
        def allowed(self, info): return [name for name, legal in zip(self.actions, info["action_mask"]) if legal]
    task, env = Legal(), TaskEnv(Legal())
    for seed in range(10):
        frame = env.reset(seed)
        assert ([task.to_env(name, frame.info) for name in frame.actions]
                == np.flatnonzero(frame.info["action_mask"]).tolist() != [])


@pytest.mark.parametrize("names, says", [([], "allows no action"), (["up", "up"], "names an action twice"),
                                         ([""], "empty action name")])
def test_actions_of_a_moment_are_checked(names, says):
    task = type("Odd", (FrozenLake,), dict(allowed=lambda self, info: names))()
    with pytest.raises(UsageError, match=f"task Odd {says}|task Odd has an {says}"): TaskEnv(task).reset(0)


def test_oracle_success_and_columns():
    class Known(FrozenLake):
        def oracle(self, env, info):
            way = {0: "down", 4: "down", 8: "right", 9: "down", 13: "right", 14: "right"}
            return way.get(env.unwrapped.s)
        def columns(self, episode): return dict(steps=len(episode))
    task = Known()
    class Strict(Known):
        def success(self, episode): return len(episode) < 6
    [right], [strict] = play(task, OracleActor(task), [0]), play(Strict(), OracleActor(task), [0])
    assert right.success and right.columns == {"steps": 6} and not strict.success


# mistakes

@pytest.mark.parametrize("options, says", [
    (dict(env_kwargs=dict(render_mode=None)), "shows nothing.*render_mode=None, wanted 'rgb_array'"),
    (dict(env_kwargs=dict(render_mode="ansi")), "shows nothing.*render_mode='ansi', wanted 'rgb_array'"),
    (dict(actions=["left", "down", "right", "left"]), "names an action twice"),
    (dict(actions=["left", "down", "right", " "]), "empty action name"),
    (dict(actions=[0, 1, 2, 3]), "no string"),
    (dict(actions=[]), "allows no action"),
    (dict(actions=["left", "down", "right"]),
     r"names 3 actions \(left, down, right\) but FrozenLake has Discrete\(4\).*to_env"),
    (dict(actions=["left", "down", "right", "up", "jump"]), r"names 5 actions .* but FrozenLake has Discrete\(4\)"),
    (dict(env_id="FrozenLack-v1"), "task FrozenLake cannot make FrozenLack-v1.*doesn't exist"),
    (dict(env_kwargs=dict(slippery=False)), "cannot make FrozenLake with .*unexpected keyword argument 'slippery'"),
    (dict(history_images=True), "needs history=1 or more"),
    (dict(max_turn=3), "did you mean 'max_turns'"),
])
def test_mistakes_are_named(options, says):
    with pytest.raises(UsageError, match=says): TaskEnv(FrozenLake(**options)).reset(0)


def test_actions_that_are_not_numbered_need_to_env():
    class Pendulum(Task):
        env_id, env_kwargs = "Pendulum-v1", dict(render_mode="rgb_array")
        actions, goal = ["push", "pull"], "Keep the pendulum upright."
    with pytest.raises(UsageError, match=r"Pendulum-v1 has Box.*override to_env"): TaskEnv(Pendulum())
    class Pushed(Pendulum):
        def to_env(self, action, info): return np.array([2.0 if action == "push" else -2.0], np.float32)
        def text(self, observation, info): return f"angle {np.arctan2(observation[1], observation[0]):.1f}"
    env = TaskEnv(Pushed(env_kwargs=dict(render_mode=None)))
    env.reset(0)
    assert env.step("push")[0].text.startswith("angle")


@pytest.mark.parametrize("image, says", [
    (np.zeros((8, 8, 5), np.uint8), r"\(8, 8, 5\)"), (np.zeros(8, np.uint8), r"\(8,\)"),
    (np.full((8, 8, 3), 200.0), "float64 must hold numbers from 0 to 1, got 200"), ("ice", "gave a str"),
])
def test_what_is_no_image_is_refused(image, says):
    task = type("Odd", (FrozenLake,), dict(image=lambda self, *_: image))()
    with pytest.raises(UsageError, match=f"task Odd .*{says}"): TaskEnv(task).reset(0)


def test_only_tasks_are_registered():
    for wrong in (print, dict, FrozenLake()):
        with pytest.raises(UsageError, match="only a subclass of Task"): register_task(wrong)


def test_unknown_actions_and_steps_after_the_end():
    env = TaskEnv(FrozenLake())
    env.reset(0)
    with pytest.raises(UsageError, match="has no action 'upp'; did you mean 'up'"): env.step("upp")
    for name in ("right", "down"): env.step(name)
    with pytest.raises(UsageError, match="has ended"): env.step("up")


def test_the_error_of_an_environment_is_not_swallowed():
    env = TaskEnv(ThinIce())
    env.reset(0); env.step("go")
    with pytest.raises(RuntimeError, match="the ice broke"): env.step("go")


# the two doors

TASK = """
from rl4vlm.tasks import Task, register_task

@register_task
class Pond(Task):
    env_id, env_kwargs = "FrozenLake-v1", dict(render_mode="rgb_array", is_slippery=False)
    actions = ["left", "down", "right", "up"]
    goal = "Walk over the ice to the flag."
"""


@pytest.mark.parametrize("arguments", [["--import", "my_tasks"], ["--import=my_tasks"], ["--import", "my_tasks.py"],
                                       ["--import", "./my_tasks.py"]])
def test_import_by_module_or_file(rl4vlm, tmp_path, arguments):
    (tmp_path/"my_tasks.py").write_text(TASK)
    assert '"left", "down", "right", "up"' in rl4vlm("tasks", *arguments, "--task", "Pond", "--episodes", 2,
                                                     SDL_VIDEODRIVER="dummy").stdout


@pytest.mark.parametrize("source, says", [
    ("class Broken(:", "my_tasks.py, line 1"),
    ("x = 1\nfor name in undefined: pass", "NameError: name 'undefined' is not defined (my_tasks.py, line 2)"),
    ("import no_such_package", "No module named 'no_such_package'; my_tasks imports it"),
    (TASK.replace('"up"', '"left"'), "task Pond names an action twice"),
])
def test_a_module_that_fails_is_told_in_one_line(rl4vlm, tmp_path, source, says):
    (tmp_path/"my_tasks.py").write_text(source)
    done = rl4vlm("tasks", "--import", "my_tasks", code=2)
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: --import my_tasks: ") and says in line, line


@pytest.fixture
def installed(tmp_path):
    ("A function that lays out an installed package with entry points: installed({task name: value}, "
     "module text) -> its folder.")
    def install(points, source=TASK):
        site = tmp_path/"site"
        (site/"pond-1.0.dist-info").mkdir(parents=True)
        (site/"pond_tasks.py").write_text(source)
        (site/"pond-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: pond\nVersion: 1.0\n")
        (site/"pond-1.0.dist-info/entry_points.txt").write_text(
            "[rl4vlm.tasks]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        return site
    return install


def test_an_installed_package_brings_its_task(rl4vlm, installed):
    path = os.pathsep.join([str(installed({"Pond": "pond_tasks:Pond"})), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert '"left", "down"' in rl4vlm("tasks", "--task", "Pond", "--episodes", 2, PYTHONPATH=path,
                                      SDL_VIDEODRIVER="dummy").stdout


@pytest.mark.parametrize("value, source, says", [
    ("pond_tasks:Lake", TASK, "AttributeError.*Lake"),
    ("no_such_tasks:Pond", TASK, "No module named 'no_such_tasks'"),
    ("pond_tasks:Pond", "1 / 0", "ZeroDivisionError"),
    ("pond_tasks:Task.make_env", TASK, "only a subclass of Task"),
])
def test_a_broken_package_is_named(monkeypatch, installed, value, source, says):
    monkeypatch.syspath_prepend(installed({"Swamp": value}, source))
    monkeypatch.delitem(__import__("sys").modules, "pond_tasks", raising=False)
    assert "Swamp" in list_tasks()
    with pytest.raises(UsageError, match=says) as error: make_task("Swamp")
    assert ("only a subclass" in says or "task 'Swamp' cannot be loaded" in str(error.value)
            and "installed by pond" in str(error.value))


# history in images

class Watcher(Actor):
    "Keeps its questions and says its lines in turn, over and over."
    def __init__(self, *lines): self.lines, self.asked = lines, []
    def act(self, questions):
        self.asked += questions
        return [Response(self.lines[(len(self.asked) - 1) % len(self.lines)])]   # one environment at a time


def test_the_past_is_shown_in_order():
    task, actor = (FrozenLake(history=2, history_images=True, invalid="noop", max_turns=5),
                   Watcher('{"action": "down"}', '{"action": "up"}'))
    [episode] = play(task, actor, [0])
    assert len(episode) == 5 and (episode.turns[0].images[-1] != episode.turns[1].images[-1]).any()
    now = [q.frame.images[0] for q in actor.asked]
    for i, (question, turn) in enumerate(zip(actor.asked, episode.turns)):
        wanted = now[max(0, i - 2):i + 1]
        assert len(turn.images) == len(wanted) == sum(p["type"] == "image" for p in question.messages[0]["content"])
        assert all((a == b).all() for a, b in zip(turn.images, wanted)) and len(question.images) == len(wanted)
    text = "".join("[image]" if p["type"] == "image" else p["text"] for p in actor.asked[2].messages[0]["content"])
    assert text.startswith("Earlier picture:[image] -> down\nEarlier picture:[image] -> up\n"
                           "Picture now:[image]Walk over")
    assert "Before:" not in text
    assert episode.turns[0].anchor != episode.turns[1].anchor


def test_the_past_does_not_change_what_was_seen():
    "Anchors compare states, whatever the history shows."
    plain, shown = (play(FrozenLake(history=h, history_images=h > 0), Watcher('{"action": "down"}'), [0])[0]
                    for h in (0, 1))
    assert [len(t.images) for t in plain.turns] == [1, 1, 1] and [len(t.images) for t in shown.turns] == [1, 2, 2]
    assert [t.anchor for t in plain.turns] == [t.anchor for t in shown.turns]


@pytest.mark.parametrize("name", ["NumberLine", "EZPoints", "Blackjack", "MiniGridEmpty"])
def test_tasks_with_their_own_prompts_show_the_past_too(name):
    task = make_task(name, history=2, history_images=True)
    plain, frame = make_task(name), TaskEnv(task).reset(0)
    past = [PastTurn(frame, "", action, 0.0) for action in frame.actions[:2]]
    parts = task.prompt(frame, past)[0]["content"]
    assert sum(p["type"] == "image" for p in parts) == len(task.prompt_images(frame, past)) == 3
    assert parts[-1]["text"] == words(plain, frame)
    assert f"-> {past[1].action}" in parts[-3]["text"] + parts[-4].get("text", "")


def test_an_invalid_answer_is_part_of_the_past():
    actor = Watcher("no idea")
    play(FrozenLake(history=1, history_images=True, invalid="noop", max_turns=2), actor, [0])
    assert any("-> invalid answer" in p.get("text", "") for p in actor.asked[1].messages[0]["content"])


def test_without_images_the_past_is_told():
    task = Named(env_kwargs=dict(render_mode=None), history=1, history_images=True)
    frame = TaskEnv(task).reset(0)
    assert "Before: place 0 -> down" in words(task, frame, [PastTurn(frame, "", "down", 0.0)])
    assert task.prompt_images(frame, [PastTurn(frame, "", "down", 0.0)]) == []


def test_a_policy_reads_both_images(blind_model, tmp_path):
    import torch
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.preprocess import conversation
    from rl4vlm.sft import split_row
    from rl4vlm.store import EpisodeStore
    policy = VLMPolicy.load(blind_model)
    task = make_task("NumberLine", history=1, history_images=True, max_turns=3)
    episode = next(e for e in play(task, PolicyActor(policy, max_new_tokens=6), range(8))
                   if len(e) > 1 and (e.turns[0].images[0] != e.turns[1].images[-1]).any())
    first, second = episode.turns[:2]
    assert [len(t.images) for t in (first, second)] == [1, 2]
    assert (second.images[0] == first.images[0]).all() and (second.images[1] != first.images[0]).any()
    places = [int((t.prompt_ids == policy.config.image_token_id).sum()) for t in (first, second)]
    assert places[1] == 2 * places[0] > 0
    with torch.no_grad():   # training scores exactly what was sampled
        scores = policy([t.prompt.tokens for t in (first, second)], [t.response_ids for t in (first, second)])
        other = policy([policy.encode(second.messages, second.images[::-1])], [second.response_ids])
    for row, turn in zip(scores.logprobs, (first, second)):
        np.testing.assert_allclose(row[:len(turn.logprobs)].numpy(), turn.logprobs, atol=1e-4)
    # and their order matters
    assert abs(other.logprobs[0].numpy()[:len(second.logprobs)] - second.logprobs).max() > 1e-4
    EpisodeStore(tmp_path).write([episode])
    messages, images, _ = split_row(conversation(EpisodeStore(tmp_path).read()[1]))
    assert (policy.encode(messages, images).ids == second.prompt_ids).all()
    assert all((a == b).all() for a, b in zip(images, second.images))


def test_a_method_by_its_old_name_works_and_is_told():
    with pytest.warns(FutureWarning, match="the method values is called true_fields now"):
        Old = type("Old", (FrozenLake,), dict(values=lambda self, info: dict(place="7")))
    assert Old().true_fields({}) == dict(place="7")
