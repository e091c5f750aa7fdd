"""ALFWorld: steps, resets, the view, worker processes

The household engine on small generated games: what a reset, a step and an image cost; eight games in this process and
in two workers; memory over 200 episodes."""
import subprocess
import sys
import time
import numpy as np
from envs import play_pool
from measure import best, clock, milliseconds, rate, ratio, table, times, verdict
from rl4vlm.env_pool import EnvPool
from rl4vlm.envs.alfworld import ALFWorldEnv, useful
from rl4vlm.envs.alfworld_view import draw_scene
from rl4vlm.tasks import make_task

TITLE = "ALFWorld"


def random_steps(env, count, seed=0):
    "Seconds of each of `count` random commands; resets in between are not counted."
    random, found = np.random.default_rng(seed), []
    _, info = env.reset(seed=seed)
    for x in random.random(count):
        commands = useful(info["admissible_commands"], info["scene"].place)
        start = clock()
        *_, terminated, truncated, info = env.step(commands[int(x * len(commands))])
        found.append(clock() - start)
        if terminated or truncated: _, info = env.reset(seed=int(1000 * x))
    return found


def growth():
    "Megabytes that a process grows by in 200 episodes, after a first 60."
    code = """
from rl4vlm.envs.alfworld import ALFWorldEnv, useful
env = ALFWorldEnv(places=6)
def memory(): return int(open("/proc/self/statm").read().split()[1]) * 4 / 1024
def episodes(seeds):
    for seed in seeds:
        _, info = env.reset(seed=seed)
        for turn in range(8):
            if env.over: break
            commands = useful(info["admissible_commands"], info["scene"].place)
            *_, info = env.step(commands[(seed * 7 + turn) % len(commands)])
episodes(range(60)); before = memory(); episodes(range(60, 260)); print(memory() - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def run(options):
    "The section of the report."
    rows = []
    for places in (6, 10):
        env = ALFWorldEnv(places=places)
        t = best({"reset": lambda: times(lambda seed: env.reset(seed=seed), range(12)),
                  "step": lambda: sum(random_steps(env, 150)) / 150}, options.repeats)
        rows.append([f"{places} places", milliseconds(t["reset"]), milliseconds(t["step"]), rate(t["step"]),
                     verdict(1 / t["step"], 25)])
    scenes = []
    _, info = env.reset(seed=1)
    for command in env.plan(): scenes.append(info["scene"]); *_, info = env.step(command)
    view = best({"view": lambda: times(draw_scene, scenes * 5)}, options.repeats)["view"]
    pools = {n: EnvPool(make_task("ALFWorld", places=6), 8, workers=n) for n in (0, 2)}
    t = best({n: (lambda pool=pool: play_pool(pool, 40, time.perf_counter)) for n, pool in pools.items()},
             options.repeats)
    for pool in pools.values(): pool.close()
    faster = t[0] / t[2]
    limit = "met" if view <= 0.005 else "**missed**"
    steps = [["6 places", rate(t[0]), rate(t[2]), ratio(faster), verdict(faster, 1.5)]]
    return f"""Games are generated; commands are random ones that change something. Times of resets, steps and images
are processor time; steps include the image.

{table(["one environment", "reset", "step", "steps", "target"], rows)}

An image of 300×300 takes {milliseconds(view)} (target: at most 5 ms, {limit}). A process grows by {growth():.1f} MB in
200 episodes.

{table(["8 environments, steps with resets, wall time", "in process", "two workers", "ratio", "target"], steps)}
"""
