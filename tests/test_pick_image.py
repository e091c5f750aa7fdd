"PickImage: the images, the rule, the tool call, and several images at once through every stage."
import json
import re
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, strategies as st
from PIL import Image
from rl4vlm.core import UsageError
from rl4vlm.env_pool import TaskEnv
from rl4vlm.envs.pick_image import PickImageEnv
from rl4vlm.parsing import CAUSES, make_tool_call, parse_tool_call
from rl4vlm.rollout import OracleActor, RandomActor, play
from rl4vlm.store import EpisodeStore
from rl4vlm.tasks import make_task

KINDS = pytest.mark.parametrize("correct_index", [0, None], ids=["fixed", "named"])
ACTIONS = ["0", "1", "2", "3"]


@pytest.fixture
def folder(tmp_path):
    "A folder of three images of different shapes, and a file that is none."
    (tmp_path/"toys").mkdir()
    for name, shape, colour in [("red_car.png", (40, 80), "red"), ("blue-ball.jpg", (30, 30), "blue"),
                                ("green box.bmp", (90, 20), "green")]:
        Image.new("RGB", shape, colour).save(tmp_path/"toys"/name)
    (tmp_path/"toys/notes.txt").write_text("not an image")
    return tmp_path/"toys"


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    "An untrained tiny checkpoint whose tokenizer knows both kinds of prompt."
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    texts = [t for c in (0, None) for task in [make_task("PickImage", correct_index=c)]
             for t in frame_texts(task, sample_frames(task, 20))]
    return build_tiny(tmp_path_factory.mktemp("blind"), texts=texts)


@KINDS
def test_the_environment_keeps_the_rules_of_gymnasium(correct_index):
    env = gym.make("rl4vlm/PickImage-v0", correct_index=correct_index)
    check_env(env.unwrapped, skip_render_check=True)
    a, info = env.reset(seed=7)
    b, again = env.reset(seed=7)
    assert (a == b).all() and info == again and len(set(info["names"])) == 4
    assert info["right"] == 0 if correct_index == 0 else info["wanted"] == info["names"][info["right"]]
    assert env.render().shape == (56, 4 * 56, 3)
    assert env.step(info["right"])[1:4] == (1.0, True, False)
    with pytest.raises(gym.error.ResetNeeded): env.step(0)
    env.reset(seed=7)
    with pytest.raises(ValueError): env.unwrapped.step(4)


def test_both_kinds_show_the_same_images():
    a, b = (PickImageEnv(correct_index=c).reset(seed=3)[0] for c in (0, None))
    assert (a == b).all()


@KINDS
def test_oracle_and_random_play(correct_index):
    task = make_task("PickImage", correct_index=correct_index)
    assert all(e.success and len(e) == 1 for e in play(task, OracleActor(task), range(50)))
    assert 0.18 < np.mean([e.success for e in play(task, RandomActor(task), range(600))]) < 0.32


def test_right_is_anywhere_if_it_is_named():
    env = PickImageEnv(correct_index=None)
    assert {env.reset(seed=s)[1]["right"] for s in range(60)} == {0, 1, 2, 3}


def test_a_folder_of_images(folder):
    task = make_task("PickImage", data_root=str(folder), k=3, correct_index=None, size=28)
    frame = TaskEnv(task).reset(0)
    assert sorted(frame.info["names"]) == ["blue ball", "green box", "red car"]
    assert [i.shape for i in frame.images] == [(28, 28, 3)] * 3
    colours = {"red car": 0, "green box": 1, "blue ball": 2}
    for name, image in zip(frame.info["names"], frame.images): assert image[14, 14].argmax() == colours[name]
    assert frame.info["wanted"] in task.prompt(frame)[0]["content"][-1]["text"]


def test_wrong_folders_and_options(folder, tmp_path):
    def refused(says, **options):
        with pytest.raises(UsageError, match=says): make_task("PickImage", **options)
    refused("is no folder", data_root=str(tmp_path/"nowhere"))
    refused("k must be from 2 to 3", data_root=str(folder))
    (tmp_path/"empty").mkdir(); refused("no images in", data_root=str(tmp_path/"empty"))
    (tmp_path/"one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path/"one/a.png")
    refused("only one image", data_root=str(tmp_path/"one"))
    (tmp_path/"twice").mkdir()
    [Image.new("RGB", (9, 9)).save(tmp_path/"twice"/n) for n in ("a.png", "a.jpg", "b.png")]
    refused("a.jpg, a.png", data_root=str(tmp_path/"twice"), k=2)
    (tmp_path/"bad").mkdir()
    [(tmp_path/"bad"/n).write_bytes(b"\x89PNG\r\n") for n in ("x.png", "y.png")]
    refused("2 of 2 images .* x.png, y.png", data_root=str(tmp_path/"bad"))
    whole = (folder/"red_car.png").read_bytes()
    (folder/"cut.png").write_bytes(whole[:len(whole) // 2])
    refused("1 of 4 images .* cut.png", data_root=str(folder), k=2)
    refused("correct_index=4 must be from 0 to 3", correct_index=4)
    refused("correct_index=-1", correct_index=-1)
    refused("k must be from 2 to 12", k=1)
    refused("k must be from 2 to 12", k=13)


@pytest.mark.parametrize("arguments, says", [(["--task_options.data_root", "nowhere"], "is no folder"),
                                             (["--task_options.correct_index", "9"], "from 0 to 3"),
                                             (["--task_options.kk", "3"], "no option 'kk'")])
def test_a_wrong_option_is_one_line_and_leaves_no_folder(rl4vlm, tmp_path, arguments, says):
    [line] = rl4vlm("collect", "--task", "PickImage", "--out", "runs/a", *arguments, code=2).stderr.strip().splitlines()
    assert line.startswith("error: ") and says in line and not (tmp_path/"runs").exists()


@KINDS
def test_answers_are_tool_calls(correct_index):
    task = make_task("PickImage", correct_index=correct_index)
    frame = TaskEnv(task).reset(1)
    thoughts, brace, rest = task.answer("2", frame.info).partition("{")
    assert json.loads(brace + rest) == {"name": "pick_image", "arguments": {"index": 2}}
    if correct_index is not None: assert thoughts == ""
    else:
        said = re.fullmatch(r"Wanted: (.*)\. I see: 0 (.*), 1 (.*), 2 (.*)\. ", thoughts).groups()
        assert said[0] == frame.info["wanted"] and said[3] == frame.info["names"][2]
        for part, name in zip(said[1:3], frame.info["names"]):
            assert name.startswith(part) and (part == name or not said[0].startswith(part))
    for action in frame.actions: assert task.parse(task.answer(action, frame.info), frame.actions).action == action


def call(**arguments): return make_tool_call("pick_image", **arguments)

@pytest.mark.parametrize("text, action, cause", [
    (call(index=2), "2", None), (f"<tool_call>\n{call(index=2)}\n</tool_call>", "2", None),
    (f"I see it. {call(index=2)} Good.", "2", None),
    (f"```json\n{call(index=2)}\n```", "2", None),
    ('{"arguments": {"index": "2"}, "name": "pick_image", "id": 7}', "2", None),
    ('{"name": "pick_image", "arguments": "{\\"index\\": 2}"}', "2", None),
    (call(index=2)[:-2], None, "no_action"), (call(index=2)[:-1], "2", None),
    (call(index=2) + call(index=2), "2", None), (call(index=2) + "\n" + call(index=3), None, "ambiguous"),
    (call(index=1) + make_tool_call("look"), None, "ambiguous"),
    (make_tool_call("pick", index=2), None, "wrong_tool"), ('{"arguments": {"index": 2}}', None, "wrong_tool"),
    ('{"name": ["pick_image"], "arguments": {"index": 2}}', None, "wrong_tool"),
    (call(), None, "missing_argument"), (call(image=2), None, "missing_argument"),
    ('{"name": "pick_image"}', None, "missing_argument"),
    (call(index=2, sure=True), None, "extra_argument"),
    (call(index=4), None, "unknown_action"), (call(index=-1), None, "unknown_action"),
    (call(index=1.5), None, "unknown_action"),
    (call(index=None), None, "unknown_action"), (call(index=[1, 2]), None, "ambiguous"),
    ("image 2", None, "no_json"), ('{"index": 2}', None, "no_action"), ("", None, "empty"),
])
def test_each_mistake_has_its_cause(text, action, cause):
    parsed = parse_tool_call(text, "pick_image", "index", ACTIONS)
    assert (parsed.action, parsed.cause, parsed.span) == (action, cause, None)


@given(st.text(alphabet='{}[]":, pick_imageargumentsnd0123\\\n<>/', max_size=200) | st.text(max_size=60), st.booleans())
def test_any_text_is_an_action_or_a_cause(text, cut):
    parsed = parse_tool_call(text, "pick_image", "index", ACTIONS, cut)
    assert (parsed.action in ACTIONS) != (parsed.cause in CAUSES)


@given(st.integers(0, 3), st.text(alphabet="abc <>/\n.!", max_size=40), st.text(alphabet="abc <>/\n.!", max_size=40))
def test_text_around_a_call_changes_nothing(index, before, after):
    assert parse_tool_call(before + call(index=index) + after, "pick_image", "index", ACTIONS).action == str(index)


def test_a_long_answer_takes_no_long_time():
    for text in ('{"name": ' * 9999, call(index=1) * 9999, '{"a": 1} ' * 9999 + call(index=1), "{" * 99999):
        parse_tool_call(text, "pick_image", "index", ACTIONS)


@KINDS
def test_a_policy_reads_several_images(correct_index, blind):
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.load(blind, device="cpu")
    few, many = (make_task("PickImage", correct_index=correct_index, k=k) for k in (2, 4))
    frames = [(task, TaskEnv(task).reset(s)) for task, s in [(few, 0), (many, 0), (many, 1)]]
    prompts = [policy.encode(t.prompt(f), t.prompt_images(f)) for t, f in frames]
    assert [int((p.ids == policy.config.image_token_id).sum()) for p in prompts] == [8, 16, 16]
    answers = [policy.answer_ids(t.answer("1", f.info)) for t, f in frames]
    with torch.no_grad():
        together, alone = policy.score(prompts, answers), [policy.score([p], [a]) for p, a in zip(prompts, answers)]
    for i, one in enumerate(alone):
        assert torch.allclose(together.logprobs[i][together.mask[i]], one.logprobs[0][one.mask[0]], atol=1e-4)
    swapped = policy.encode(many.prompt(frames[1][1]), frames[1][1].images[::-1])
    with torch.no_grad():
        # the order of the images matters
        assert not torch.allclose(policy.score([swapped], answers[1:2]).logprobs, alone[1].logprobs)


@KINDS
def test_every_stage_takes_several_images(rl4vlm, tmp_path, blind, correct_index):
    options = ["--task", "PickImage",
               "--task_options.correct_index", "null" if correct_index is None else correct_index]
    rl4vlm("quickstart", *options, "--model", blind, "--out", "run", "--collect.episodes", 20,
           "--sft.steps", 3, "--sft.optim.batch_size", 4, "--ppo.updates", 2, "--ppo.rollout.envs", 4,
           "--ppo.rollout.steps", 2, "--ppo.optim.minibatch", 4, "--ppo.sampling.max_new_tokens", 8,
           "--eval.panel", "val-50", "--eval.sampling.max_new_tokens", 8)
    rows = EpisodeStore(tmp_path/"run/data/episodes").read()
    assert len(rows) == 20 and all(len(r["images"]) == 4 for r in rows) and set(rows["cause"]) == {None}
    results = {r["name"]: r for r in json.loads((tmp_path/"run/results.json").read_text())["rows"]}
    assert list(results) == ["random", "oracle", "sft", "ppo"]
    assert results["oracle"]["success"] == 1 and results["random"]["episodes"] == 50
    page = (tmp_path/"run/report.html").read_text()
    assert "pick_image" in page and page.count("data:image/") >= 8


def test_in_words(blind, rl4vlm):
    options = ["--task", "PickImage", "--task_options.correct_index", "null", "--task_options.text_only", "true"]
    assert "Pictures: 0 " in rl4vlm("tasks", *options, "--episodes", 0).stdout
    rl4vlm("ppo", *options, "--model", blind, "--updates", 1, "--rollout.envs", 4, "--rollout.steps", 2,
           "--sampling.max_new_tokens", 8, "--run.eval_every", 5)
