"AlfThor without its simulator: every preflight message, and the protocol with stand-ins."
import socket
import time
from pathlib import Path
import numpy as np
import pytest

pytest.importorskip("alfworld", reason="needs the extra rl4vlm[alfworld]")
from rl4vlm.core import RL4VLMError, UsageError
from rl4vlm.env_pool import EnvPool
from rl4vlm.envs import alfworld_thor as module
from rl4vlm.envs.alfworld_games import Game, generate_games
from rl4vlm.envs.alfworld_thor import BUILD, AlfThor, AlfThorEnv, Simulator, Thor, preflight, translated
from rl4vlm.evaluate import evaluate
from rl4vlm.rollout import RandomActor

STAND_IN = '''
import json, sys; sys.path[:] = json.loads(sys.argv[2])
import os, subprocess, time, numpy as np
from rl4vlm.envs.alfworld_thor import serve
class StandIn:
    def __init__(self): self.turn = 0
    def seen(self, words):
        commands = ["go to shelf 1", "go to drawer 1", "take mug 1 from shelf 1", "move mug 1 to shelf 1", "look"]
        won = words.startswith("move")
        return dict(words=words, commands=commands, won=won, rate=0.5 + 0.5 * won,
                    frame=np.full((300, 300, 3), self.turn, np.uint8), here="" if words == "reset" else "drawer 1",
                    closed=True, places=["drawer 1", "shelf 1"], things=[], held=[["mug 1", ["clean"]]])
    def reset(self, trajectory):
        self.turn = 0
        if os.path.exists("hang_at_reset"): time.sleep(600)
        self.child = subprocess.Popen(["sleep", "600"]); open("pids", "a").write(f"{self.child.pid} ")
        return self.seen("reset")
    def step(self, command):
        self.turn += 1
        if command == "hang": time.sleep(600)
        if command == "half": channel = os.write(int(sys.argv[1]), b"\\x00\\x00"); os._exit(0)
        if command == "die": os._exit(3)
        if command == "fail": raise KeyError("object gone")
        return self.seen(command)
    def stop(self): self.child.kill()
serve(int(sys.argv[1]), StandIn)
'''
GAME = Game("pick", "put a mug on shelf", "Mug", "Shelf", "", "", "somewhere")


@pytest.fixture(autouse=True)
def quiet_place(tmp_path, monkeypatch):
    monkeypatch.setenv("RL4VLM_CACHE", str(tmp_path/"cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def games(tmp_path):
    generate_games(tmp_path/"games", 3, "pick,look,heat", places=5)
    return str(tmp_path/"games")


def alive(pid):
    try: return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError: return False


def gone(seconds=5):
    "Whether all that stand-ins have started has ended."
    end = time.monotonic() + seconds
    while any(map(alive, Path("pids").read_text().split())) and time.monotonic() < end: time.sleep(0.05)
    return not any(map(alive, Path("pids").read_text().split()))


# --- preflight ---

def everything(monkeypatch, tmp_path, *lacking):
    "A machine that has all, but for what is lacking."
    found = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda n: None if n in lacking else found(n) or True)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: tmp_path))
    system = dict(Linux="Linux64", Darwin="OSXIntel64")[module.platform.system()]
    if "build" not in lacking: (tmp_path/".ai2thor"/"releases"/f"{BUILD}-{system}").mkdir(parents=True, exist_ok=True)
    if "display" not in lacking: monkeypatch.setattr(module, "_x_answers", lambda display: True)
    monkeypatch.setenv("DISPLAY", ":993")


@pytest.mark.parametrize("lacking, says", [("alfworld", r"pip install .*\[alfworld\]"),
                                           ("ai2thor", r"no module ai2thor\): pip install .*\[alfworld-thor\]"),
                                           ("cv2", r"no module cv2\): pip install"),
                                           ("display", r"no X server at DISPLAY=':993'; THOR needs one with GLX.*Xvfb"),
                                           ("build", rf"THOR's program is missing: no .*releases/{BUILD}.*390 MB")])
def test_preflight_names_what_is_missing(lacking, says, games, monkeypatch, tmp_path):
    everything(monkeypatch, tmp_path)
    assert len(preflight(games)) == 3
    everything(monkeypatch, tmp_path, lacking)
    if lacking == "build": (next((tmp_path/".ai2thor"/"releases").iterdir())).rmdir()
    if lacking == "display": monkeypatch.undo(); everything(monkeypatch, tmp_path, lacking); monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says): AlfThor(games=games).make_env()


def test_preflight_without_games(monkeypatch, tmp_path):
    everything(monkeypatch, tmp_path)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path/"data"))
    with pytest.raises(UsageError, match="no games under .*data/json_2.1.1/train; .*alfworld-download, "
                                         "and ALFWORLD_DATA.*rl4vlm alfworld generate"):
        preflight()


def test_an_x_server_that_answers_is_found(tmp_path):
    server = socket.create_server(("127.0.0.1", 6000 + 37))
    assert module._x_answers("127.0.0.1:37.0")
    server.close()
    assert not module._x_answers("127.0.0.1:37.0")


# --- the child ---

def test_move_becomes_put():
    assert translated("move apple 1 to sinkbasin 2") == "put apple 1 in/on sinkbasin 2"
    for same in ("go to fridge 1", "move", "take apple 1 from shelf 1", "look"): assert translated(same) == same


class FakeController:
    curr_recep, visible_objects, inventory = "fridge 1", ["egg 1"], ["mug 1"]
    objects = {"Egg|1": dict(num_id="egg 1", object_id="Egg|1"), "Mug|2": dict(num_id="mug 1", object_id="Mug|2")}
    receptacles = {"Fridge|1": dict(num_id="fridge 1", closed=False), "Shelf|1": dict(num_id="shelf 1", closed=None)}
    def get_object_state(self, id): return id == "Egg|1", False, id == "Mug|2", False     # clean, cold, hot, sliced


def test_the_simulator_gives_rgb_frames_and_the_scene():
    "`Simulator` against a driver with the attributes of ALFWorld's."
    class FakeThor:
        controller, steps = FakeController(), []
        def reset(self, path): self.path = path
        def step(self, command): self.steps.append(command)
        def get_results(self): return "words", False, ["look"], False, 0.5, []
        def get_last_frame(self):
            return np.dstack([np.full((2, 2), v, np.uint8) for v in (1, 2, 3)])   # blue, green, red
    simulator = Simulator.__new__(Simulator)
    simulator.thor = FakeThor()
    seen = simulator.reset("a.json")
    assert seen["frame"][0, 0].tolist() == [3, 2, 1] and seen["frame"].flags["C_CONTIGUOUS"]
    assert (seen["here"], seen["closed"], seen["places"]) == ("fridge 1", False, ["fridge 1", "shelf 1"])
    assert (seen["things"], seen["held"]) == ([["egg 1", ["clean"]]], [["mug 1", ["hot"]]])
    simulator.step("move mug 1 to shelf 1")
    assert simulator.thor.steps == ["put mug 1 in/on shelf 1"]
    FakeController.curr_recep = "nothing"
    assert simulator.seen()["here"] == ""


@pytest.mark.parametrize("command, says",
                         [("hang", "no answer within 1 s"), ("die", "the simulator ended"),
                          ("half", "the simulator ended"), ("fail", "the simulator failed: KeyError: 'object gone'")])
def test_what_goes_wrong_is_told_and_nothing_is_left(command, says):
    thor = Thor(seconds=20, boot=STAND_IN)
    assert thor.start(GAME) == "reset"
    thor.seconds, process = 1, thor.child.process
    with pytest.raises(RL4VLMError, match=says) as told: thor.do(command)
    assert process.poll() is not None and gone()
    assert Path(str(told.value).split("its log is ")[1]).exists()
    thor.seconds = 20
    assert thor.start(GAME) == "reset" and thor.do("look") == "look"     # a fresh child goes on
    thor.close()
    assert gone()


def test_a_simulator_that_never_starts():
    Path("hang_at_reset").touch()
    thor = Thor(seconds=2, boot=STAND_IN)
    with pytest.raises(RL4VLMError, match="asked for reset .*no answer within 2 s"): thor.start(GAME)
    with pytest.raises(RL4VLMError, match="the simulator ended"):
        Thor(seconds=20, boot="import no_such_module").start(GAME)


def test_a_forgotten_simulator_ends():
    import gc
    thor = Thor(seconds=20, boot=STAND_IN)
    thor.start(GAME)
    process = thor.child.process
    del thor; gc.collect()
    assert process.poll() is not None and gone()


# --- the environment ---

def test_the_interface_is_that_of_alfworld(games):
    env = AlfThorEnv(games=games, boot=STAND_IN, seconds=20)
    image, info = env.reset(seed=0)
    assert set(info) >= {"observation_text", "admissible_commands", "won", "goal_condition_success_rate", "task_type",
                         "task", "is_legal_action", "scene"}
    assert (image == 0).all() and info["scene"].place == ""
    image, reward, terminated, truncated, info = env.step("go to drawer 1")
    assert (image == 1).all() and (reward, terminated) == (0.0, False)
    assert info["scene"].opened is False and info["scene"].held.states == ("clean",)
    assert env.step("fly")[1] == -1
    assert env.step("move mug 1 to shelf 1")[1:3] == (50.5, True)
    env.close()
    assert gone()


def test_random_play_and_pools(games):
    task = AlfThor(games=games, env_kwargs=dict(boot=STAND_IN, seconds=20), max_turns=8)
    assert evaluate(task, RandomActor(task), range(4), envs=2)[0]["episodes"] == 4
    pool = EnvPool(task, 1, workers=1, timeout=60)
    assert pool.reset({0: 0})[0].actions
    pool.close()
    assert gone()
