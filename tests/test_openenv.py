"OpenEnv both ways: served episodes equal local ones, foreign servers are played, a fault is one line or one episode."
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
import numpy as np
import pytest
from rl4vlm.core import RL4VLMError, UsageError
from rl4vlm.env_pool import EnvPool
from rl4vlm.envs import openenv as module
from rl4vlm.envs.openenv import OpenEnv, running_server
from rl4vlm.rollout import OracleActor, RandomActor, play
from rl4vlm.tasks import Task, make_task, register_task

pytest.importorskip("openenv", reason="needs the extra openenv")

@contextlib.contextmanager
def served(*arguments, port=0):
    "`rl4vlm serve` in a process of its own: the process and its address."
    command = [sys.executable, "-m", "rl4vlm.cli", "serve", *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONUNBUFFERED="1"))
    try:
        line = next(line for line in process.stdout if " is served at " in line)
        yield process, line.split(" is served at ")[1].split()[0]
    finally:
        process.kill()
        process.wait()


def played(task, actor, seeds):
    "What can be compared of episodes: all that a model reads and all that comes of its answers."
    episodes = play(task, actor(task), seeds, envs=3)
    turns = [[(t.messages, [i.tobytes() for i in t.images], t.text, t.action, t.cause, t.played, t.reward, t.terminated,
               t.truncated, t.steps, t.state, t.suggestion, t.anchor) for t in e.turns] for e in episodes]
    return [(e.seed, e.success, e.columns, turn) for e, turn in zip(episodes, turns)]


ODD = ["", '{"action": "fly"}', '{"action": "up, up, up, up, up"}']


class Odd:
    "Plays the oracle, and writes nonsense in between."
    name, needs_oracle, served = "odd", True, False

    def __init__(self, task): self.oracle = OracleActor(task, 0.3)
    def values(self, prompts): return [None] * len(prompts)
    def annotate(self, turns): pass
    def close(self): pass

    def act(self, prompts):
        responses = self.oracle.act(prompts)
        for prompt, response in zip(prompts, responses):
            if prompt.seed % 4 == 0: response.text = ODD[prompt.seed % 3]
        return responses


@pytest.mark.parametrize("name, options", [
    ("NumberLine", {}), ("NumberLine", dict(history=2, invalid="noop")), ("Sokoban", dict(size=5)),
    ("MiniGridDoorKey5", {}), ("EZPoints", {}), ("PickImage", {}), ("FrozenLake", dict(text_only=True)),
    ("NumberLine", dict(context="concat")), ("MiniGridDoorKey5", dict(context="compact", history=1))])
def test_a_served_task_is_the_local_one(name, options):
    task = make_task(name, **options)
    with running_server(task, options) as url:
        far = OpenEnv(url=url)
        assert played(far, Odd, range(6)) == played(task, Odd, range(6))
        if name == "Sokoban": assert any(t[9] > 1 for *_, turns in played(far, Odd, range(3)) for t in turns)


def test_a_task_that_the_client_does_not_know(monkeypatch):
    "The words come from the server: prompt, menu, oracle's answer, success."
    task = make_task("MiniGridDoorKey5")
    with running_server(task) as url:
        monkeypatch.setattr(module, "list_tasks", lambda: [])
        far = OpenEnv(url=url)
        assert type(far.words).__name__ == "_Served"
        drop = lambda found: [(seed, success, [t[:-1] for t in turns]) for seed, success, _, turns in found]
        assert drop(played(far, OracleActor, range(4))) == drop(played(task, OracleActor, range(4)))


def test_options_of_the_client():
    with running_server(make_task("NumberLine")) as url:
        far = OpenEnv(url=url, max_turns=3, history=1, thoughts=None)
        here = make_task("NumberLine", max_turns=3, history=1, thoughts=None)
        assert played(far, RandomActor, range(4)) == played(here, RandomActor, range(4))


def test_openenvs_own_client_plays_ours_in_several_sessions():
    from openenv.core.generic_client import GenericEnvClient
    with served("--task", "Sokoban", "--task_options.max_turns", 3, "--sessions", 2) as (_, url):
        with GenericEnvClient(url).sync() as one, GenericEnvClient(url).sync() as two:
            a, b = one.reset(seed=1), two.reset(seed=2)
            assert a.observation["text"] != b.observation["text"] and len(a.observation["images"]) == 1
            assert a.observation["actions"] and '"action"' in a.observation["prompt"] and not a.done
            assert one.state()["suggestion"] and one.state()["step_count"] == 0
            again = two.reset(seed=1)
            assert again.observation == a.observation
            said = one.step(dict(answer='I go. {"action": "up, left"}'))
            assert said.observation["cause"] is None
            assert two.step(dict(action="up, left")).observation == said.observation
            for odd in ("fly", "up, fly", 7, None, ["up"] * 99, {"x": [[]]}, "\ud800", "up," * 10_000):
                two.reset(seed=1)
                said = two.step(dict(action=odd))
                assert said.observation["cause"] and (said.reward, said.done) == (0.0, False), odd
                assert said.observation["images"] == a.observation["images"]
            for _ in range(2): said = two.step(dict(action="fly"))
            assert said.done and said.observation["truncated"]
            with pytest.raises(RuntimeError, match="reset before"): two.step(dict(action="up"))
            with pytest.raises(RuntimeError): two.step(dict(fly=1))
            assert two.reset(seed=1).observation == a.observation     # the session has survived all this
            with pytest.raises(RL4VLMError, match="CAPACITY_REACHED.*lower --rollout.envs"):
                OpenEnv(url=url, timeout=1.0).make_env().reset(seed=0)


def colours():
    "A small foreign server, made with the package: it shows a colour, and wants it named and pointed at."
    from openenv.core.env_server import Action, create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Observation, State
    class Name(Action):
        colour: Literal["red", "green"]
        loud: bool = False
    class Shown(Observation):
        screen: dict = {}
        note: str = ""
        success: bool = False
    class Colours(Environment):
        "Name the colour."
        SUPPORTS_CONCURRENT_SESSIONS = True
        def reset(self, seed=None, episode_id=None, **others):
            self.colour = ["red", "green"][(seed or 0) % 2]
            return self.shown()
        def shown(self, **more):
            image = np.zeros((12, 10, 3), np.uint8)
            image[..., self.colour == "green"] = 200
            return Shown(screen=dict(pixels=image.tolist()), note="which colour?", **more)
        def step(self, action, timeout_s=None, **others):
            if action.colour == "green" and self.colour == "red": raise ValueError("no green here")
            right = action.colour == self.colour
            return self.shown(reward=float(right), done=True, success=right)
        @property
        def state(self): return State()
    return create_app(Colours, Name, Shown, max_concurrent_envs=8)


def test_our_client_plays_a_foreign_server():
    with module._running(colours()) as url:
        task = OpenEnv(url=url, goal="Name it.")
        assert list(task.actions) == ["red", "green"] and task.goal == "Name it."
        class Red(Odd):
            def act(self, prompts):
                from rl4vlm.types import Response
                return [Response('{"action": "red"}') for _ in prompts]
        first, second = play(task, Red(task), [0, 1], envs=2)
        assert [e.success for e in (first, second)] == [True, False] and first.total_reward == 1.0
        assert first.turns[0].images[0].shape == (12, 10, 3) and first.turns[0].state == "which colour?"
        assert first.turns[0].terminated and "which colour?" in str(first.turns[0].messages)
        narrow = OpenEnv(url=url, image_field="screen.pixels", text_field="note", action_field="loud")
        assert list(narrow.actions) == ["true", "false"] and narrow.to_env("true", {}) == dict(loud=True)
        wrong = OpenEnv(url=url, image_field="screen.png")
        env = wrong.make_env()
        with pytest.raises(UsageError, match="no field 'screen.png'"): wrong.frame(*env.reset(seed=0), env)
        with pytest.raises(UsageError, match="no field 'size'; it has"): OpenEnv(url=url, action_field="size")
        env.close()


def test_what_fails_at_the_other_end_loses_one_episode():
    with module._running(colours()) as url, contextlib.closing(EnvPool(OpenEnv(url=url), 2)) as pool:
        pool.reset({0: 0, 1: 1})
        with pytest.warns(RuntimeWarning, match="no green here"): results = pool.step({0: "green", 1: "green"})
        assert results[0] is None and results[1][1] == 1.0 and pool.lost == 1
        assert pool.reset({0: 0})[0].images


def test_a_killed_server_loses_only_its_episode():
    with served("--task", "NumberLine") as (process, url):
        port = url.rpartition(":")[2]
        task = OpenEnv(url=url, timeout=60.0)
        with contextlib.closing(EnvPool(task, 2, workers=1)) as pool:
            frames = pool.reset({0: 10, 1: 11})
            process.kill(); process.wait()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                results = pool.step({0: "+"})
            assert results == {0: None} and pool.lost == 1 and pool.running == {1}
            assert "environment 0 of task OpenEnv was lost" in " ".join(str(w.message) for w in told)
            with served("--task", "NumberLine", port=port):
                again = pool.reset({0: 10})[0]
                assert (again.images[0] == frames[0].images[0]).all() and again.text == frames[0].text
                assert pool.step({0: "+"})[0] is not None


def test_a_server_that_stays_away_ends_in_one_line(rl4vlm):
    with served("--task", "NumberLine") as (process, url):
        task = OpenEnv(url=url, timeout=0.5)
        env = task.make_env()
        env.reset(seed=0)
        process.kill(); process.wait()
        with pytest.raises(RL4VLMError, match=f"no episode began at {url}"): env.reset(seed=1)
        [line] = rl4vlm("eval", "--task", "OpenEnv", "--import", "rl4vlm.envs.openenv", "--task_options.url", url,
                        code=2).stderr.strip().splitlines()
        assert line.startswith(f"error: no server answers at {url}")


@contextlib.contextmanager
def answering(pages, hang=0.0):
    "A web server that gives some pages and hangs a while before each."
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments): pass
        def do_GET(self):
            time.sleep(hang)
            page = pages.get(self.path)
            body = page if isinstance(page, bytes) else json.dumps(page).encode()
            with contextlib.suppress(OSError):
                self.send_response(200 if page is not None else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally: server.shutdown(); server.server_close()


SCHEMA = dict(action={}, observation={})


@pytest.mark.parametrize("pages, says", [
    ({}, "is no OpenEnv server"), ({"/schema": b"<html>gateway</html>"}, "is no OpenEnv server"),
    ({"/schema": [1]}, "is no OpenEnv server"), ({"/schema": dict(action=3, observation={})}, "is no OpenEnv server"),
    ({"/schema": b"[" * 100_000}, "is no OpenEnv server"),
    ({"/schema": SCHEMA, "/openapi.json": dict(info=dict(title="OpenEnv API", version="2.1"))}, "speaks version 2.1"),
    ({"/schema": dict(SCHEMA, action=dict(rl4vlm=dict(protocol=2)))}, "in version 2, and this package reads version 1"),
    ({"/schema": dict(SCHEMA, action=dict(rl4vlm="new"))}, "install the same version"),
    ({"/schema": dict(SCHEMA, action=dict(rl4vlm=dict(protocol=1)))}, "cannot be read"),
    ({"/schema": dict(SCHEMA, action=dict(properties=[]))}, "cannot be read")])
def test_another_server_or_version_is_named(pages, says):
    with answering(pages) as url, pytest.raises(UsageError, match=says) as error: OpenEnv(url=url)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_server_without_sessions_and_one_that_hangs():
    with answering({"/schema": SCHEMA}) as url:
        env = OpenEnv(url=url, timeout=0.5).make_env()
        with pytest.raises(RL4VLMError, match="no episode began"): env.reset(seed=0)
    with answering({"/schema": SCHEMA}, hang=3) as url:
        with pytest.raises(UsageError, match="does not answer within 0.3 s"): OpenEnv(url=url, timeout=0.3)


def test_a_step_that_hangs_loses_the_episode():
    @register_task
    class Slow(Task):
        env_id, actions = "FrozenLake-v1", ["left", "down", "right", "up"]
        def to_env(self, action, info): time.sleep(1.5); return 0
        def describe(self, info): return "a number"
    with running_server(Slow()) as url, contextlib.closing(EnvPool(OpenEnv(url=url, timeout=0.4), 1)) as pool:
        pool.reset({0: 1})
        with pytest.warns(RuntimeWarning, match="no answer within 0.4 s"): assert pool.step({0: "down"}) == {0: None}


def test_wrong_commands_and_a_missing_package(rl4vlm, tmp_path):
    assert "cannot listen at" in rl4vlm("serve", "--host", "203.0.113.1", "--port", 0, code=2).stderr
    [line] = rl4vlm("serve", "--task", "NumberLine:1,Blackjack:1", code=2).stderr.strip().splitlines()
    assert line.startswith("error: ") and "is a mixture" in line
    (tmp_path/"hide.py").write_text("import importlib.util as u\nfind = u.find_spec\n"
                                    "u.find_spec = lambda name, *a: None if name == 'openenv' else find(name, *a)\n")
    [line] = rl4vlm("serve", "--import", "hide", code=2).stderr.strip().splitlines()
    assert "needs the package openenv" in line and "[openenv]" in line
