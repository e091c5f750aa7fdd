"MiniWoB++ in a real Chromium: oracles, pixels by seed, wrong answers, browsers that are killed, nothing left behind."
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
import numpy as np
import pytest
from rl4vlm.core import RL4VLMError, UsageError
from rl4vlm.env_pool import EnvPool, LostEnvironment, TaskEnv, descendants, live_processes
from rl4vlm.envs import miniwob as module
from rl4vlm.envs.miniwob import BROWSER, LOADED_ONCE, PAGES, MiniWoB, MiniWoBEnv, next_step, own_page, typed
from rl4vlm.evaluate import evaluate
from rl4vlm.rollout import Actor, OracleActor, play
from rl4vlm.tasks import make_task
from rl4vlm.types import Response

MISSING = [what for what, there in (("chromium and chromedriver (Debian: apt install chromium chromium-driver)",
                                     any(map(shutil.which, module.CHROMIUM)) and shutil.which("chromedriver")),
                                    ("miniwob (pip install miniwob)", find_spec("miniwob"))) if not there]
pytestmark = pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"),
                                reason=f"these pages are shown in a browser; install {', '.join(MISSING)}")
CLICK, TYPE = (lambda x, y: dict(action_type=0, coords=np.array([x, y], np.float32), text=""),
               lambda text: dict(action_type=1, coords=np.zeros(2, np.float32), text=text))


@pytest.fixture(scope="module", autouse=True)
def folders():
    "No test leaves a folder; browsers of other files' tests, which may run at the same time, have theirs elsewhere."
    with tempfile.TemporaryDirectory(prefix="web-", dir="/tmp") as own, pytest.MonkeyPatch.context() as patched:
        patched.setattr(tempfile, "tempdir", own)
        patched.setenv("TMPDIR", own)
        yield
        BROWSER.end()
        assert not profiles()


@pytest.fixture(autouse=True)
def kept():
    "A window of this file's own, so that not every test starts a browser; no test leaves another one."
    if not BROWSER.windows: BROWSER.open()
    ours = BROWSER.windows[0]
    yield
    assert BROWSER.windows in ([ours], [])


@pytest.fixture
def alone():
    "No browser runs before and after."
    BROWSER.end()
    yield
    assert BROWSER.driver is None and not BROWSER.windows and gone(chromes())


def chromes():
    "Processes of this test process that belong to a browser."
    return {p for p in descendants([os.getpid()]) if "chrom" in name_of(p)}


def name_of(pid):
    try: return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError: return ""


def profiles(): return set(Path(tempfile.gettempdir()).glob("rl4vlm-browser-*"))


def gone(pids, seconds=10):
    end = time.monotonic() + seconds
    while (left := set(pids) & live_processes().keys()) and time.monotonic() < end: time.sleep(0.05)
    return not left


def chromium_of(driver):
    "The process of Chromium itself."
    pid = driver.service.process.pid
    return next(p for p, (parent, _) in live_processes().items() if parent == pid)


@pytest.fixture
def env():
    made = []
    def make(page):
        made.append(MiniWoBEnv(page))
        return made[-1]
    yield make
    for e in made: e.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_oracle_solves_every_episode(page):
    task = MiniWoB(page=page)
    row, _ = evaluate(task, OracleActor(task), range(500, 506), envs=2, keep_images=0)
    assert row["success"] == 1.0 and row["mean_return"] == 1.0
    assert row["mean_turns"] == {"enter-text": 3, "enter-password": 5}.get(page, 1)


@pytest.mark.parametrize("page", ["click-tab", "click-dialog", "click-test-2", "enter-text"])
def test_a_seed_gives_the_same_pixels_whatever_was_before(env, page):
    one, other, source = env(page), env(page), random.Random(0)
    first = {seed: one.reset(seed=seed) for seed in (1, 11, 3)}
    assert len({image.tobytes() for image, _ in first.values()}) == 3     # 1 and 11 too, whose keys are alike
    for seed in (3, 11, 1):
        other.reset(seed=seed + 100)
        for _ in range(3):   # what a player leaves behind: the mouse, text, an open tab
            if not other.over: other.step(CLICK(source.randrange(160), source.randrange(210)))
            if not other.over: other.step(TYPE("left over"))
        image, info = other.reset(seed=seed)
        assert np.array_equal(image, first[seed][0]) and info == first[seed][1]
    if page == "click-dialog":
        BROWSER.end()
        assert np.array_equal(env(page).reset(seed=3)[0], first[3][0])   # and in another browser


@pytest.mark.parametrize("page", LOADED_ONCE)
def test_a_page_that_is_loaded_once_looks_as_if_loaded_anew(env, page, monkeypatch):
    e, source = env(page), random.Random(0)
    with monkeypatch.context() as anew:
        anew.setattr(module, "LOADED_ONCE", ())
        fresh = {seed: e.reset(seed=seed) for seed in range(8)}
    e.reset(seed=0)
    for seed, (image, info) in fresh.items():
        for _ in range(3):
            seen = [x for x in e.info["elements"] if x.at]
            if not e.over: e.step(CLICK(*source.choice(seen).at))
            if not e.over: e.step(CLICK(source.randrange(160), source.randrange(210)))
            if not e.over: e.step(TYPE("left over"))
        again, told = e.reset(seed=seed)
        assert np.array_equal(again, image) and told == info


def test_pages_of_ones_own_and_others_of_the_package(env, tmp_path):
    script = """var genProblem = function() {
  const n = core.randi(0, 9);
  document.getElementById("query").textContent = `Click ${n}.`;
  document.getElementById("area").innerHTML = [n, n + 1].map(k => `<button>${k}</button>`).join("");
  for (const e of document.querySelectorAll("button"))
    e.onclick = () => core.endEpisode(+e.textContent === n ? 1 : -1, true);
}"""
    class Own(MiniWoB):
        page = own_page(script)
        def wanted(self, task, element): return task == f"Click {element.text}."
    assert own_page(script) == Own.page and Path(Own.page).is_file()
    row, episodes = evaluate(Own(), OracleActor(Own()), range(6), envs=2, keep_images=0)
    assert row["success"] == 1.0 and row["mean_turns"] == 1
    image, info = env(Own.page).reset(seed=1)
    assert np.array_equal(env(Own.page).reset(seed=1)[0], image)
    other = MiniWoB(page="click-color")   # has no rule: no oracle, but it can be played
    _, info = env("click-color").reset(seed=1)
    assert other.oracle(None, info) is None and other.reason(info) == "nothing helps"
    for page in ("clik-test", str(tmp_path/"none.html")):
        with pytest.raises(UsageError, match="is unknown"): MiniWoB(page=page)


def test_a_page_of_ones_own_is_loaded_anew_unless_it_says_otherwise(env, tmp_path):
    script = """let met = 0;
var genProblem = function() {
  met += 1;
  document.getElementById("query").textContent = `Visit ${met}`;
}"""
    def visits(page):
        e = env(page)
        return [e.reset(seed=0)[1]["task"] for _ in range(3)]
    assert visits(own_page(script)) == ["Visit 1"] * 3
    assert visits(own_page(script, stateless=True)) == ["Visit 1", "Visit 2", "Visit 3"]   # which was not true of it
    namesake = tmp_path/f"{LOADED_ONCE[0]}.html"
    shutil.copy(own_page(script), namesake)
    assert visits(str(namesake)) == ["Visit 1"] * 3


def test_rewards_are_raw_and_the_clock_does_not_run_out(env):
    e = env("click-test-2")
    _, info = e.reset(seed=4)
    assert e.inner.instance.driver.execute_script("return core.EPISODE_MAX_TIME;") > 10**9
    two = next(x for x in info["elements"] if x.text == "TWO")
    assert e.step(CLICK(159, 209))[1:3] == (0.0, False)
    time.sleep(0.3)   # a reward scaled by time would be less than one
    image, reward, terminated, _, info = e.step(CLICK(*two.at))
    assert (reward, terminated, info["success"]) == (-1.0, True, False) and image.any()
    _, info = e.reset(seed=4)
    time.sleep(0.3)
    assert e.step(CLICK(*next(x for x in info["elements"] if x.text == "ONE").at))[1:3] == (1.0, True)


@pytest.mark.parametrize("text", ["a\ue007b", "\ud83d", "\x00\x1b\r\n\t", "é猫😀", "", "'\"`;</script>", " " * 64,
                                  "\u202e\u0301"])
def test_any_text_can_be_typed(env, text):
    e = env("enter-text")
    _, info = e.reset(seed=1)
    image, _, terminated, _, info = e.step(CLICK(*info["elements"][0].at))
    assert info["elements"][0].focused
    _, reward, terminated, _, info = e.step(TYPE(text))
    assert not terminated and info["elements"][0].text == typed(text)      # no key such as Enter was pressed


def test_hopeless_is_hopeless():
    task = make_task("MiniWoBEnterText")
    one = TaskEnv(task, oracle=True)
    try:
        one.step(one.reset(1).suggestion)
        frame = one.step('{"name": "type", "arguments": {"text": "qq"}}')[0]
        assert frame.suggestion is None and '"qq"' in frame.text and task.reason(frame.info) == "nothing helps"
    finally: one.close()


SAID = {'{"action": {"name": "click", "arguments": {"at": [160, 10]}}}': "outside_image",
        '{"action": {"name": "click", "arguments": {"at": [10, 210]}}}': "outside_image",
        '{"action": {"name": "click", "arguments": {"at": [10.5, 2]}}}': "wrong_type",
        '{"action": {"name": "click", "arguments": {}}}': "missing_argument",
        '{"action": {"name": "scroll", "arguments": {"by": 3}}}': "wrong_tool",
        '{"action": {"name": "type", "arguments": {"text": "%s"}}}' % ("x" * 65): "too_long",
        '{"action": [{"name": "click", "arguments": {"at": [1, 2]}}, {"name": "type", "arguments": {}}]}': "too_many",
        '{"name": "click", "arguments": {"at": [1, 2]}} {"name": "click", "arguments": {"at": [3, 4]}}': "ambiguous",
        "click at 3, 4": "no_json"}


def test_wrong_answers_are_counted_by_cause():
    class Saying(Actor):
        def act(self, prompts): return [Response(waiting.pop(0)) for _ in prompts]
    waiting = list(SAID)
    task = MiniWoB(invalid="noop", max_turns=len(SAID))
    [episode] = play(task, Saying(), [7], envs=1)
    assert [t.cause for t in episode.turns] == list(SAID.values())


def held(count):
    "Play hostile answers through the parser of these pages."
    from test_actions import hostile, is_valid
    kind, source, found = MiniWoB.actions, random.Random(1), Counter()
    for _ in range(count):
        text = hostile(kind, source)
        parsed = kind.parse(text, cut=source.random() < 0.3)
        assert (parsed.action is None) != (parsed.cause is None), text
        if parsed.action is not None:
            assert is_valid(kind, parsed.action), text
            step = MiniWoB().to_env(parsed.action, {})
            assert step["action_type"] in (0, 1) and typed(step["text"]).isprintable()
        found[parsed.cause or "an action"] += 1
    assert len(found) > 4 and found["an action"] > count / 50


def test_hostile_answers(): held(3000)
@pytest.mark.full
def test_50_000_hostile_answers(): held(50_000)


def answers(pool, count):
    "Step environments that nothing happens in."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        results = pool.step({i: '{"name": "type", "arguments": {"text": "x"}}' for i in range(count)})
    return results, [str(w.message) for w in told if w.category is RuntimeWarning]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_browser_loses_its_episodes_only(alone, workers):
    task = make_task("MiniWoBClickTest")
    pool = EnvPool(task, 2, workers=workers)
    try:
        before = pool.reset({0: 5, 1: 6})
        [chromedriver] = [p for p in chromes() if "chromedriver" in name_of(p)]
        os.kill(next(p for p, (parent, _) in live_processes().items() if parent == chromedriver), signal.SIGKILL)
        results, told = answers(pool, 2)
        assert results == {0: None, 1: None} and pool.lost == 2 and not pool.running
        assert len(told) == 2 and all("its browser does not answer" in t for t in told)
        again = pool.reset({0: 5, 1: 6})
        assert all(np.array_equal(again[i].images[0], before[i].images[0]) for i in (0, 1))
        results, told = answers(pool, 2)
        assert not told and all(results.values()) and pool.lost == 2
        assert gone({chromedriver})
    finally: pool.close()


def test_a_rollout_plays_on_after_a_killed_browser(alone):
    killed = []
    class Killing(OracleActor):
        def act(self, prompts):
            if len(killed) < 2: os.kill(chromium_of(BROWSER.driver), signal.SIGKILL); killed.append(1)
            return super().act(prompts)
    task = make_task("MiniWoBClickTest")
    with warnings.catch_warnings(action="ignore"):
        episodes = play(task, Killing(task), range(4), envs=2)
    assert [e.seed for e in episodes] == [0, 1, 2, 3] and all(task.success(e) for e in episodes) and len(killed) == 2


def test_a_browser_that_hangs_is_lost_in_time(alone, env, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 2)
    e = env("click-test")
    e.reset(seed=1)
    held = descendants([BROWSER.driver.service.process.pid])
    os.kill(chromium_of(BROWSER.driver), signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(LostEnvironment, match="does not answer"): e.step(CLICK(1, 1))
    assert time.monotonic() - began < 30 and gone(held)
    assert e.reset(seed=1)[0].any()


def test_another_window_lives_on(env):
    "A window that is closed by somebody is lost alone."
    one, other = env("click-test"), env("click-test")
    one.reset(seed=1); other.reset(seed=2)
    driver = BROWSER.driver
    driver.switch_to.window(one.inner.instance.window); driver.close()
    with pytest.raises(LostEnvironment): one.step(CLICK(1, 1))
    assert BROWSER.driver is driver and other.step(CLICK(1, 205))[1] == 0.0
    assert one.reset(seed=1)[0].any() and BROWSER.driver is driver


def test_a_page_that_does_not_load_is_one_line(env, tmp_path):
    e = env("click-test")
    e.inner.instance.url = (tmp_path/"click-test.html").as_uri()
    with pytest.raises(RL4VLMError, match="page did not load: .*click-test.html is missing") as found: e.reset(seed=1)
    assert "\n" not in str(found.value)
    (tmp_path/"click-test.html").write_text("<p>another page</p>")
    with pytest.raises(RL4VLMError, match="is missing or not one of its pages"): e.reset(seed=1)


def test_a_chromium_that_does_not_start_is_one_line(alone, monkeypatch, tmp_path):
    broken = tmp_path/"chromium"
    broken.write_text("#!/bin/sh\nexit 3\n"); broken.chmod(0o755)
    monkeypatch.setattr(module, "require_browser", lambda: (str(broken), shutil.which("chromedriver")))
    with pytest.raises(RL4VLMError, match="Chromium did not start") as found: MiniWoBEnv("click-test")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("missing", ["chromium", "chromedriver"])
def test_what_is_missing_is_told(rl4vlm, tmp_path, missing):
    tools = tmp_path/"bin"
    tools.mkdir()
    for tool in {"chromium", "chromedriver"} - {missing}: (tools/tool).symlink_to(shutil.which("true"))
    done = rl4vlm("tasks", "--task", "MiniWoB", "--import", "rl4vlm.envs.miniwob", code=2, PATH=str(tools))
    assert f"{missing} is not on the PATH: apt-get install chromium chromium-driver" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"no module miniwob\): pip install .*\[web\]"): make_task("MiniWoB").make_env()


def test_wrong_pages_are_refused():
    with pytest.raises(UsageError, match="did you mean 'click-tab'"): MiniWoB(page="click-tap")
    with pytest.raises(UsageError, match="it has click-test, "): MiniWoBEnv("x")


def test_in_words():
    task = make_task("MiniWoBEnterText", text_only=True)
    one = TaskEnv(task, oracle=True)
    try: frame = one.reset(2)
    finally: one.close()
    assert not frame.images
    [message] = task.prompt(frame)
    asked = message["content"][0]["text"]
    assert "Task: Enter " in asked and 'Now: field "" at ' in asked and 'button "Submit" at ' in asked
    assert task.parse(task.answer(frame.suggestion, frame.info), frame.actions).action == frame.suggestion


SCRIPT = """
import sys, time
from rl4vlm.env_pool import EnvPool
from rl4vlm.tasks import make_task
pool = EnvPool(make_task("MiniWoB"), 2, workers=int(sys.argv[1]))
pool.reset({0: 1, 1: 2}); print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def folder():
    "Where a browser that is killed may leave what it likes; a short path, unlike pytest's."
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder: yield folder


def test_a_browser_starts_where_the_folder_for_temporary_files_has_a_long_name(alone, tmp_path, monkeypatch):
    "Chromium makes a socket there, whose name may have 107 characters."
    long = tmp_path/("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    env = make_task("MiniWoBClickTest").make_env()
    try: assert env.reset(seed=0)[0].any()
    finally: env.close()


@pytest.mark.parametrize("workers, way", [(0, "SIGTERM"), (1, "SIGTERM"), (0, "SIGKILL")])
def test_no_browser_outlives_a_run(workers, way, folder):
    script = SCRIPT.replace("from rl4vlm.tasks", "import rl4vlm.envs.miniwob\nfrom rl4vlm.tasks")
    run = subprocess.Popen([sys.executable, "-c", script, str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env={**os.environ, "TMPDIR": str(folder)})
    assert run.stdout.readline() == b"ready\n", run.stderr.read()
    started = descendants([run.pid])
    assert len([p for p in started if "chromium" in name_of(p)]) > 3
    run.send_signal(getattr(signal, way))
    run.communicate(timeout=20)
    assert gone(started)


def test_the_package_names_them():
    import tomllib
    project = tomllib.loads((Path(__file__).resolve().parent.parent/"pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["web"] == ["miniwob>=1.1"]
    assert any("web" in line for line in project["optional-dependencies"]["dev"])
    assert {n: t for n, t in project["entry-points"]["rl4vlm.tasks"].items() if n.startswith("MiniWoB")} == {
        name: f"rl4vlm.envs.miniwob:{name}" for name in ("MiniWoB", "MiniWoBClickTest", "MiniWoBEnterText")}


def test_next_step_reads_the_task_only():
    from rl4vlm.envs.miniwob import Element
    one, hidden = Element("button", "ok", (5, 60)), Element("button", "Ok", None)
    assert next_step("click-button", 'Click on the "ok" button.', [hidden, one]) == ("click", one)
    assert next_step("click-button", 'Click on the "Ok" button.', [hidden, one]) is None   # it is out of sight
    assert json.loads(MiniWoB().oracle(None, dict(task="", elements=[one])))["arguments"] == {"at": [5, 60]}
