"Baselines: never a number of yesterday's code, never more environments than asked for."
import pytest
from rl4vlm import env_pool
from rl4vlm.config import CollectConfig, EvalConfig
from rl4vlm.evaluate import evaluate_all

HELPER = "REWARD = {}\n"
TASK = '''
import gymnasium, numpy as np
from rl4vlm.tasks import Task, register_task
import {helper} as helper

class Game(gymnasium.Env):
    action_space, render_mode = gymnasium.spaces.Discrete(2), None
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    def reset(self, seed=None, options=None): return np.zeros((8, 8, 3), np.uint8), {{}}
    def step(self, action): return np.zeros((8, 8, 3), np.uint8), helper.REWARD, True, False, {{}}

@register_task
class {name}(Task):
    env_id, actions, goal = "{name}-v0", ["a", "b"], "Play."
gymnasium.register("{name}-v0", entry_point=Game)
'''


def test_an_edit_in_a_module_that_the_task_imports_changes_the_number(tmp_path, monkeypatch):
    import importlib
    monkeypatch.setenv("RL4VLM_CACHE", str(tmp_path/"cache")); monkeypatch.syspath_prepend(tmp_path)
    helper, task = tmp_path/"stale_helper.py", tmp_path/"stale_task.py"
    task.write_text(TASK.format(helper="stale_helper", name="StaleGame")); helper.write_text(HELPER.format(1.0))
    module = importlib.import_module("stale_task")
    play = lambda out: evaluate_all(EvalConfig(task="StaleGame", panel="val-50", rollout=dict(envs=2),
                                               out=str(tmp_path/out)), {})[0]["success"]
    assert play("before") == 1.0
    helper.write_text(HELPER.format(-1.0)); module.helper.REWARD = -1.0     # as after an edit and a new start
    assert play("after") == 0.0
    assert not (tmp_path/"cache"/"baselines").exists()


@pytest.fixture
def alive(monkeypatch):
    "The largest number of environments that were open at the same time."
    count = dict(now=0, most=0)
    make, close = env_pool.TaskEnv.__init__, env_pool.TaskEnv.close
    def opened(self, *args, **options):
        make(self, *args, **options)
        count["now"] += 1
        count["most"] = max(count["most"], count["now"])
    def closed(self): close(self); count["now"] -= 1
    monkeypatch.setattr(env_pool.TaskEnv, "__init__", opened); monkeypatch.setattr(env_pool.TaskEnv, "close", closed)
    return count


def test_never_more_environments_than_asked_for(alive, tmp_path, blind_model):
    from rl4vlm.collect import collect
    evaluate_all(EvalConfig(panel="val-50", rollout=dict(envs=2), sampling=dict(max_new_tokens=2),
                            out=str(tmp_path/"a")), dict(model=str(blind_model)))
    assert alive == dict(now=0, most=2)
    collect(CollectConfig(episodes=9, rollout=dict(envs=3), shard_episodes=4, out=str(tmp_path/"b")))
    assert alive == dict(now=0, most=3)


def test_the_list_of_tasks_makes_none_and_a_look_at_one_closes_it(alive, capsys):
    from rl4vlm.config import TasksConfig
    from rl4vlm.task_list import describe_tasks
    describe_tasks(TasksConfig())
    assert alive["most"] == 0
    describe_tasks(TasksConfig(task="NumberLine", episodes=20))
    assert alive["now"] == 0 and alive["most"] <= 8
