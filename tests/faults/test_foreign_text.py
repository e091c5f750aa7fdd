"Text of others is shown, not obeyed; secrets are not written down; what others return is converted or refused at once."
import ast
import contextlib
import io
import json
import re
import warnings
from pathlib import Path
import numpy as np
import pytest
import yaml
from rl4vlm import cli
from rl4vlm.core import NOT_RECORDED, UsageError, printable
from rl4vlm.run_folder import claim_run_folder

ROOT = Path(__file__).resolve().parents[2]
EVIL = "a\x1b[31m\x1b]0;title\x07[bold]b[/bold] :smile: \u202ec\r\x08\x9bd\u2028"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]")


def run(*arguments):
    "(exit code, standard output, standard error) of a command in this process."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = cli.main(list(map(str, arguments)))
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("arguments", [
    ["tasks", "--task", EVIL], ["ppo", "--model", EVIL], ["ppo", "--task", EVIL], ["report", EVIL],
    ["eval", "--panel", EVIL], [EVIL], ["ppo", f"--{EVIL}", "1"],
    ["preprocess", "--data", EVIL + ".json"], ["merge", "--model", EVIL, "--out", "x"],
    ["collect", "--actor", EVIL], ["tasks", "--import", EVIL], ["ppo", "--config", EVIL],
    ["tasks", "--task", "NumberLine", "--task_options.goal", EVIL], ["sft", "--data", EVIL, "--rows.images", EVIL]])
def test_nothing_that_a_terminal_obeys_is_printed(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert not OBEYED.search(out + err), repr(out + err)
    assert code == 0 or len(err.splitlines()) == 1
    assert "[bold]" in (out + err).replace("\\", "") or code == 2     # markup is text


def test_warnings_and_tracebacks_are_made_printable_too(capsys, monkeypatch):
    import sys
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    cli._safe_output()
    assert not OBEYED.search(warnings.formatwarning(EVIL, RuntimeWarning, "f", 1))
    try: raise ValueError(EVIL)
    except ValueError as e: sys.excepthook(type(e), e, e.__traceback__)
    assert "ValueError" in (shown := capsys.readouterr().err) and not OBEYED.search(shown)


def test_there_is_one_place_where_text_is_printed():
    allowed = {"core.py": 1, "cli.py": 1}     # `tell`, and the overview
    for path in (ROOT/"rl4vlm").rglob("*.py"):
        prints = [n for n in ast.walk(ast.parse(path.read_text()))
                  if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert len(prints) <= allowed.get(path.name, 0), f"{path.name} prints; let it go through core.tell or Screen"


@pytest.mark.parametrize("name", ["api_key", "apiKey", "OPENAI_API_KEY", "token", "auth-token", "password",
                                  "Authorization", "secret", "cookie"])
def test_a_secret_is_not_written_down(name, tmp_path):
    config = dict(task="T", task_options={name: "zebra", "env_kwargs": {"headers": {name: ["zebra"]}}, "max_tokens": 5,
                                          "url": f"https://me:zebra@host/v1?x=1&{name}=zebra#key=zebra"})
    for _ in range(2): claim_run_folder(tmp_path/"run", config); (tmp_path/"run"/"config.yaml").exists()
    text = (tmp_path/"run"/"config.yaml").read_text()
    assert "zebra" not in text and NOT_RECORDED in text and yaml.safe_load(text)["task_options"]["max_tokens"] == 5
    (tmp_path/"run"/"metrics.jsonl").touch()
    claim_run_folder(tmp_path/"run", config, resume=True)     # with the secret given again, it is the same run
    from rl4vlm.tracking import plain_config
    assert "zebra" not in json.dumps(plain_config(config)) and "zebra" not in printable(config["task_options"]["url"])


def test_a_secret_is_not_written_down_by_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"keyed_task.py").write_text('''
from rl4vlm.envs.cards import NumberLine
from rl4vlm.tasks import register_task
@register_task
class Keyed(NumberLine): api_key, address = "", ""
''')
    options = ["--import", "keyed_task", "--task", "Keyed", "--task_options.api_key", "zebra",
               "--task_options.address", "http://u:zebra@h/#key=zebra"]
    code, out, err = run("collect", "--episodes", 2, "--rollout.envs", 1, "--out", "r", *options)
    assert code == 0, err
    code, out2, err2 = run("eval", "--panel", "val-50", "--rollout.envs", 2, "--out", "e", *options)
    assert code == 0 and "zebra" not in out + err + out2 + err2
    run("report", "e")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in (".pyc", ".py"): assert b"zebra" not in path.read_bytes(), path
    assert run("collect", "--actor", "openai:m@http://h/#key=zebra", "--out", "s")[0] == 2
    assert not (tmp_path/"s").exists()


def test_a_report_of_odd_config_and_odd_names(tmp_path):
    from rl4vlm.report import make_page
    run = tmp_path/"run"; run.mkdir()
    (run/"config.yaml").write_text("task: T\ndate: 2020-01-01\n? [1, 2]\n: {a: {b: [1, {c: 2020-01-01 10:00:00}]}}\n"
                                   "1: 2\nout: [x]\n&a deep: {x: 1}\n")
    row = dict(name="<b>\x1b[31m|\n", success=0.5, low=0, high=1, episodes=2, mean_return=1, causes={EVIL: 1})
    (run/"results.json").write_text(json.dumps(dict(rows=[row])))
    (run/"metrics.jsonl").write_text('{"step": 1, "success": 0.5}\n')
    assert "</html>" in make_page(run)
    for odd in ("{" * 2000, "&a {x: *a}", "- 1", "\x00", "!!python/name:os.system"):
        (run/"config.yaml").write_text(odd); assert "</html>" in make_page([run, run])


@pytest.mark.parametrize("columns, wrong",
                         [(dict(a=np.float32(1), b=np.int64(2), c=np.bool_(1), d=np.array(0.5)), ""),
                          (dict(success=1), "success"), (dict(episodes=1), "episodes"),
                          (dict(greedy_success=1), "greedy_"), (dict(a=[1]), "a="), ([1], "dict"), ({3: 1}, "3")])
def test_columns_are_converted_or_refused_when_the_first_episode_ends(columns, wrong, tmp_path):
    from rl4vlm.envs.cards import NumberLine
    from rl4vlm.evaluate import as_csv, as_markdown
    from rl4vlm.rollout import RandomActor, play
    from rl4vlm.statistics import summarise
    from rl4vlm.store import EpisodeStore
    class Odd(NumberLine):
        def columns(self, episode): return columns
    task = Odd()
    if wrong:
        with pytest.raises(UsageError, match=f"columns\\(\\) of task Odd.*{re.escape(wrong)}"):
            play(task, RandomActor(task), [1, 2], 1)
        return
    episodes = play(task, RandomActor(task), [1, 2], 1)
    EpisodeStore(tmp_path).write(episodes)
    row = summarise(EpisodeStore(tmp_path).episodes())
    assert row["a"] == 1
    assert row["d"] == 0.5
    assert as_markdown([dict(row, name="x")]) and as_csv([row]) and json.dumps(row)


def test_a_frame_after_the_end_needs_no_action_no_image_and_no_oracle():
    import gymnasium
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.tasks import Task
    class Ends(gymnasium.Env):
        metadata, render_mode, over = dict(render_modes=["rgb_array"]), "rgb_array", False
        action_space, observation_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(0, 1, (1,))
        def __init__(self, render_mode=None): pass
        def reset(self, seed=None, options=None): self.over = False; return np.zeros(1, np.float32), {}
        def step(self, action): self.over = True; return np.zeros(1, np.float32), 1.0, True, True, {}
        def render(self): return None if self.over else np.zeros((8, 8, 3), np.uint8)
    gymnasium.register("Ends-v0", entry_point=Ends)
    class EndsTask(Task):
        env_id, env_kwargs, actions, goal = "Ends-v0", dict(render_mode="rgb_array"), ["a", "b"], "g"
        def allowed(self, info): return info["legal"]
        def facts(self, observation, info, env): return info if env.unwrapped.over else dict(info, legal=["a", "b"])
        def oracle(self, env, info): return info["legal"][0]
    episode, = play(EndsTask(), OracleActor(EndsTask()), [1])
    assert episode.success and episode.turns[-1].terminated and not episode.turns[-1].truncated


@pytest.mark.parametrize("image", [None, [], np.zeros((0, 0, 3), np.uint8)])
def test_an_empty_render_is_refused_in_words(image):
    import gymnasium
    from rl4vlm.env_pool import TaskEnv
    from rl4vlm.tasks import Task
    class Blank(gymnasium.Env):
        metadata, render_mode = dict(render_modes=["rgb_array"]), "rgb_array"
        action_space, observation_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(0, 1, (1,))
        def __init__(self, render_mode=None): pass
        def reset(self, seed=None, options=None): return np.zeros(1, np.float32), {}
        def render(self): return image
    gymnasium.registry.pop("Blank-v0", None); gymnasium.register("Blank-v0", entry_point=Blank)
    class BlankTask(Task): env_id, env_kwargs, actions = "Blank-v0", dict(render_mode="rgb_array"), ["a", "b"]
    with pytest.raises(UsageError, match="task BlankTask"): TaskEnv(BlankTask()).reset(1)


def test_the_page_of_an_older_run_shows_no_key(tmp_path):
    from rl4vlm.report import make_page
    (tmp_path/"config.yaml").write_text("task: T\ntask_options:\n  api_key: zebra\n  url: "
                                        "http://u:zebra@h/?token=zebra\n  max_tokens: 5\n")
    page = make_page(tmp_path)
    assert "zebra" not in page and "max_tokens: 5" in page
