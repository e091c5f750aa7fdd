("Environments in worker processes: the same episodes as without, whatever is killed, hangs or raises, "
 "and nothing left behind.")
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
import gymnasium
import numpy as np
import pytest
from rl4vlm.core import RL4VLMError, UsageError
from rl4vlm.env_pool import EnvPool, choose_workers
from rl4vlm.envs.cards import NumberLine
from rl4vlm.rollout import OracleActor, Plan, Player, RandomActor, play
from rl4vlm.tasks import make_task

pytestmark = [pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc"),
              pytest.mark.filterwarnings("ignore:a worker process:RuntimeWarning")]


def alive():
    "{process id: parent's id} of all processes that have not ended."
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try: state, parent = (folder/"stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError): continue
        if state not in "ZX": found[int(folder.name)] = int(parent)
    return found


def children(): return {pid for pid, parent in alive().items() if parent == os.getpid()}


def gone(pids, seconds=10):
    "Whether all these processes end within some seconds."
    end = time.monotonic() + seconds
    while time.monotonic() < end and set(pids) & alive().keys(): time.sleep(0.02)
    return not set(pids) & alive().keys()


@pytest.fixture(autouse=True)
def no_leftovers():
    "Every test ends with the processes with which it began."
    before = children()
    yield
    assert children() <= before


class Trouble(gymnasium.Wrapper):
    "Calls `what` in the third step of an episode, or in each reset; only once if there is a file to remember it."
    def __init__(self, env, task): super().__init__(env); self.task, self.steps, self.helper = task, 0, None
    def reset(self, **kwargs):
        self.steps, self.seed = 0, kwargs.get("seed")
        if self.task.when == "reset": self.trouble()
        return self.env.reset(**kwargs)
    def step(self, action):
        self.steps += 1
        if self.task.when == "step" and self.steps == 3: self.trouble()
        return self.env.step(action)
    def close(self):
        if self.task.what == "": Path(self.task.once).write_text("closed")
        super().close()
    def trouble(self):
        if self.task.once and os.path.exists(self.task.once): return
        if self.task.once: Path(self.task.once).touch()
        if self.task.what == "helper": Path(self.task.once).write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        if self.task.what in ("sleep", "helper"): time.sleep(1000)
        if self.task.what == "die": os.kill(os.getpid(), signal.SIGKILL)
        if self.task.what == "exit": os._exit(3)
        if self.seed == self.task.slow: time.sleep(0.5)
        if self.task.what == "raise": raise KeyError("the door is gone")
        if self.task.what == "refuse": raise UsageError("the rules are not for sale")


class TroubleLine(NumberLine):
    "A number line with trouble; plays at least three moves, because it starts at the far end."
    what, when, once, slow = "die", "step", "", None
    invalid = "noop"
    def make_env(self): return Trouble(super().make_env(), self)
    def oracle(self, env, info):
        return "-" if info["Current"] == 0 else "+" if info["Current"] == 5 else super().oracle(env, info)


class Backwards(NumberLine):
    "Walks away from the target, so that episodes are long; and tells what its process has loaded."
    def frame(self, observation, info, env):
        return super().frame(observation, {**info, "torch": "torch" in sys.modules, "pid": os.getpid()}, env)
    def oracle(self, env, info): return "-" if info["Target"] > info["Current"] else "+"


def digest(episodes):
    return [(e.seed, e.success, e.info, [(t.text, t.played, t.reward, t.terminated, t.truncated, t.state, t.suggestion,
                                          t.index, t.episode, t.anchor, str(t.messages)) for t in e.turns])
            for e in episodes]


# ---------------------------------------------------------------------------------------------- the same episodes

@pytest.mark.parametrize("name", ["NumberLine", "MiniGridEmpty"])
def test_same_episodes_whatever_the_workers(name):
    task = make_task(name, max_turns=12)
    results = [play(task, OracleActor(task, error_rate=0.5), range(8), envs=5, workers=workers)
               for workers in (0, 1, 3)]
    for other in results[1:]:
        assert digest(other) == digest(results[0])
        for a, b in zip(results[0], other):
            for s, t in zip(a.turns, b.turns):
                assert len(s.images) == len(t.images) == 1 and np.array_equal(s.images[0], t.images[0])


@pytest.mark.parametrize("name", ["NumberLine", "MiniGridEmpty"])
def test_same_frames_in_the_order_of_the_call(name):
    def trace(workers):
        pool, found = EnvPool(make_task(name), 5, oracle=True, workers=workers), []
        frames = pool.reset({i: 100 + i for i in (3, 0, 4, 1)})
        found.append(list(frames))
        for _ in range(2):
            results = pool.step({i: frames[i].actions[0] for i in (4, 3, 0)})
            found.append([(i, r[1:], r[0].info, r[0].text, r[0].suggestion, r[0].images[0].tolist(),
                           np.asarray(r[0].observation).tolist()) for i, r in results.items()])
            for i in (4, 3, 0): pool.reset({i: 7 + i})
        pool.close()
        return found
    assert trace(0) == trace(1) == trace(3)


def test_saved_state_goes_on_in_workers():
    task = NumberLine()
    def endless(i, k): return Plan(seed=100 * i + k, key=(0, i, k))
    def texts(grid): return [[(t.text, t.reward, t.seed, t.index) for t in row] for row in grid]
    first, second = (Player(task, RandomActor(task), endless, envs=4, workers=workers) for workers in (0, 2))
    try:
        first.rollout(5)
        second.restore(first.state())
        assert texts(first.rollout(6)) == texts(second.rollout(6))
    finally: first.close(); second.close()


def test_worker_is_another_process_without_torch():
    pool = EnvPool(Backwards(), 2, workers=2)
    infos = [f.info for f in pool.reset({0: 1, 1: 2}).values()]
    pool.close()
    assert not any(i["torch"] for i in infos) and len({os.getpid(), *(i["pid"] for i in infos)}) == 3


# ---------------------------------------------------------------------------------------------- lost workers

class Killer(OracleActor):
    "Kills one of this process's children with its k-th answer."
    def __init__(self, task, k, sig=signal.SIGKILL):
        super().__init__(task)
        self.k, self.sig, self.before = k, sig, children()
    def act(self, questions):
        self.k -= 1
        if self.k == 0: os.kill(max(children() - self.before), self.sig)
        return super().act(questions)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_kill_in_the_middle_of_play(sig):
    task = Backwards(max_turns=6)
    expected = play(task, OracleActor(task), range(6), envs=4)
    with pytest.warns(RuntimeWarning,
                      match="no answer within 1 s" if sig == signal.SIGSTOP else f"killed by signal {int(sig)}"):
        episodes = play(task, Killer(task, 4, sig), range(6), envs=4, workers=2,
                        timeout=1 if sig == signal.SIGSTOP else 60)
    texts = lambda es: [(e.seed, [(t.text, t.reward, t.index, t.state) for t in e.turns]) for e in es]
    assert texts(episodes) == texts(expected)


@pytest.mark.parametrize("what,when", [("sleep", "step"), ("sleep", "reset"), ("die", "reset"), ("exit", "step")])
def test_trouble_once_is_played_again(tmp_path, what, when):
    task = TroubleLine(what=what, when=when, once=str(tmp_path/"once"), max_turns=5)
    with pytest.warns(RuntimeWarning,
                      match={"sleep": "no answer within 0.5 s", "die": "signal 9", "exit": "exit code 3"}[what]):
        episodes = play(task, OracleActor(task, 1.0), range(4), envs=4, workers=2,
                        timeout=0.5 if what == "sleep" else 60)
    assert (tmp_path/"once").exists()
    assert digest(episodes) == digest(play(task, OracleActor(task, 1.0), range(4)))


def test_trouble_each_time_names_the_seed():
    with pytest.raises(RL4VLMError, match="seed 3 of task TroubleLine was lost 4 times"):
        play(TroubleLine(), OracleActor(TroubleLine(), 1.0), [3], workers=1)


def test_broken_environment_is_not_restarted_for_ever(monkeypatch):
    monkeypatch.setattr("rl4vlm.env_pool.MAX_LOSSES", 2)
    task = TroubleLine(when="reset")
    player = Player(task, RandomActor(task), lambda i, k: Plan(k, (i, k)), envs=2, workers=1)
    with pytest.raises(RL4VLMError, match="3 times in a row without a single step"): player.step()
    assert player.pool.lost == 6


def test_losses_with_steps_in_between_are_forgiven(monkeypatch):
    monkeypatch.setattr("rl4vlm.env_pool.MAX_LOSSES", 1)
    pool = EnvPool(Backwards(), 1, oracle=True, workers=1)
    for k in range(3):
        away = pool.reset({0: k})[0].suggestion
        assert pool.step({0: away})[0]
        os.kill(pool.workers[0].process.pid, signal.SIGKILL)
        assert pool.step({0: away}) == {0: None} and pool.lost == k + 1
    pool.close()


def test_all_episodes_of_a_worker_are_reported_lost():
    pool = EnvPool(NumberLine(), 5, workers=2)
    pool.reset({i: i for i in range(4)})   # 4 lives with 0 and 2, and has no episode
    os.kill(pool.workers[0].process.pid, signal.SIGKILL)
    assert list(pool.step({1: "+", 0: "+"}).items())[1:] == [(0, None), (2, None)] and pool.lost == 2
    assert pool.reset({0: 0, 4: 4})[4].info and pool.step({3: "+"})[3]
    os.kill(pool.workers[0].process.pid, signal.SIGKILL)
    assert pool.step({2: "+"}) == {2: None, 0: None, 4: None} and pool.lost == 4   # 2 had no episode any more
    pool.close()


class Critic(RandomActor):
    "The value of a state is its seed, so that it can be recognised."
    asked = ()
    def act(self, questions): self.asked = questions; return super().act(questions)
    def values(self, questions): return [q.seed for q in questions]


def test_rollout_is_full_and_nothing_flows_over_a_loss():
    task, seen = Backwards(), []
    player = Player(task, Critic(task), lambda i, k: Plan(1000 * i + k, (i, k)), envs=4, workers=2)
    grid = player.rollout(2)
    victim = player.pool.workers[1].process.pid
    act = player.actor.act
    def act_and_kill(questions):
        if len(seen) == 2: os.kill(victim, signal.SIGKILL)
        seen.append(list(questions))
        return act(questions)
    player.actor.act = act_and_kill
    grid, finished = player.rollout(5), player.finished
    player.close()
    assert [len(row) for row in grid] == [4] * 5 and player.lost == player.pool.lost == 2
    assert [len(q) for q in seen] == [4, 4, 4, 2, 4, 4]   # two were asked again
    for i in (1, 3):
        before, after = grid[1][i], grid[2][i]
        assert after.index == 0 and after.seed > before.seed and before.done
        if not before.terminated:
            assert before.truncated and before.next_prompt is None
            assert before.next_value == seen[2][i].seed        # the value of the question whose answer was lost
            assert before.episode not in {e.id for e in finished}
    for row, following in zip(grid, grid[1:]):
        for s, t in zip(row, following):
            assert (t.episode, t.index) == (s.episode, s.index + 1) if not s.done else t.index == 0


# ---------------------------------------------------------------------------------------------- errors

def test_error_names_seed_and_shows_the_environments_traceback():
    for workers in (0, 2):
        with pytest.raises((KeyError, RL4VLMError)) as caught:
            play(TroubleLine(what="raise"), OracleActor(TroubleLine(), 1.0), [5, 6], workers=workers)
        assert "seed 5" in str(caught.value) + str(getattr(caught.value, "__notes__", ""))
    text = str(caught.value)
    assert text.startswith("KeyError in a worker process")
    assert "the door is gone" in text and "in trouble" in text and "test_env_pool.py" in text


@pytest.mark.parametrize("slow", [5, 6, 7])
@pytest.mark.parametrize("when", ["step", "reset"])
def test_the_first_environments_error_is_told_whichever_worker_is_faster(slow, when):
    with pytest.raises(RL4VLMError, match="of seed 5"):
        play(TroubleLine(what="raise", when=when, slow=slow), OracleActor(TroubleLine(), 1.0), [5, 6, 7], envs=3,
             workers=3)


def test_error_ends_all_workers_at_once():
    before, pool = children(), EnvPool(TroubleLine(what="raise", when="reset"), 4, workers=2)
    with pytest.raises(RL4VLMError): pool.reset({0: 1, 1: 2})
    assert children() == before
    with pytest.raises(UsageError, match="is closed"): pool.reset({0: 1})


def test_errors_for_the_user_stay_what_they_are():
    with pytest.raises(UsageError, match="seed 5") as caught:
        play(TroubleLine(what="refuse"), OracleActor(TroubleLine(), 1.0), [5], workers=1)
    assert str(caught.value) == "the rules are not for sale"
    with pytest.raises(UsageError, match="reset before the next step"):
        EnvPool(NumberLine(), 1, workers=1).step({0: "+"})


def test_environment_that_cannot_be_made():
    with pytest.raises(RL4VLMError, match="must be at least 1"):
        EnvPool(make_task("NumberLine", env_kwargs=dict(max_position=0)), 3, workers=2)
    class Unmade(NumberLine):
        def make_env(self): os._exit(4)
    with pytest.raises(RL4VLMError, match="did not start .exit code 4."): EnvPool(Unmade(), 3, workers=2)


def test_auto_keeps_cheap_games_here():
    assert choose_workers(NumberLine(), 8) == 0
    pool = EnvPool(NumberLine(), 8, workers="auto")
    assert not pool.workers
    pool.close()


# ---------------------------------------------------------------------------------------------- nothing is left running

def test_forgotten_pool_closes_its_environments_and_ends_its_workers(tmp_path):
    pool = EnvPool(TroubleLine(what="", once=str(tmp_path/"closed")), 2, workers=2)
    pids = [w.process.pid for w in pool.workers]
    assert set(pids) <= children()
    del pool; gc.collect()
    assert not set(pids) & alive().keys() and (tmp_path/"closed").read_text() == "closed"


def test_what_an_environment_started_dies_with_its_worker(tmp_path):
    pool = EnvPool(TroubleLine(what="helper", when="reset", once=str(tmp_path/"pid")), 1, workers=1, timeout=1)
    assert pool.reset({0: 0}) == {0: None}
    helper = int((tmp_path/"pid").read_text())
    pool.close()
    assert gone([helper])


SCRIPT = '''
import gymnasium, sys, time
from rl4vlm.envs.cards import NumberLineEnv
from rl4vlm.tasks import Task
from rl4vlm.env_pool import EnvPool
print("main runs", flush=True)
seconds = float(sys.argv[1])
class Slow(NumberLineEnv):
    def step(self, action): time.sleep(seconds); return super().step(action)
gymnasium.register("Mine/Slow-v0", entry_point=Slow)
class MyTask(Task): env_id, actions = "Mine/Slow-v0", ["-", "+"]
pool = EnvPool(MyTask(), 2, workers=2)
pool.reset({0: 0, 1: 1})
print("workers", *(w.process.pid for w in pool.workers), flush=True)
pool.step({0: "+", 1: "+"})
print("done", flush=True)
'''


def start_script(tmp_path, seconds):
    "A script that defines its environment itself; returns its process and the ids of its workers."
    (tmp_path/"script.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, "script.py", str(seconds)],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert lines[0] == "main runs\n" and lines[1].startswith("workers"), lines + [process.stderr.read()]
    return process, [int(pid) for pid in lines[1].split()[1:]]


def test_task_defined_in_a_script_and_pool_left_open(tmp_path):
    process, workers = start_script(tmp_path, 0)
    out, err = process.stdout.read(), process.stderr.read()   # `communicate` would lose what lies in the buffer
    process.wait(60)
    assert (out, err, process.returncode) == ("done\n", "", 0) and gone(workers)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_die_with_their_parent(tmp_path, sig):
    process, workers = start_script(tmp_path, 1000)
    assert set(workers) <= alive().keys()
    time.sleep(0.3)
    os.killpg(process.pid, sig)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -sig and "done" not in out
    assert gone(workers)
    if sig == signal.SIGINT: assert err.count("Traceback") == 1   # the parent's own


def test_ctrl_c_does_not_reach_a_worker():
    pool = EnvPool(NumberLine(), 1, workers=1)
    pool.reset({0: 0})
    os.kill(pool.workers[0].process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert pool.step({0: "+"})[0] and pool.lost == 0
    pool.close()
