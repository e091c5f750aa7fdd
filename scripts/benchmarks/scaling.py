"""time by turns, memory by iterations

Whether the time of an iteration grows in a straight line with its turns, and whether a process stays as large as it is
over 50 iterations."""
import gc
import re
import tempfile
from pathlib import Path
import numpy as np
import torch
from iteration import base_model, our_ppo
from measure import clock_of, median, rounds, table

TITLE = "Scaling"
STEPS, ITERATIONS, WARM = (1, 2, 4, 6, 8), 50, 10


def resident():
    "Resident memory of this process in MB."
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10


def straight(x, y):
    "Slope, intercept and R² of a straight line."
    slope, start = np.polyfit(x, y, 1)
    return slope, start, 1 - ((y - slope * x - start)**2).sum() / ((y - y.mean())**2).sum()


def run(options):
    "The section of the report."
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = base_model(Path(folder)/"base")
        loops = {steps: our_ppo(base, 32, 16 * steps, envs=16, minibatch=16) for steps in STEPS}
        t = rounds({16 * steps: (lambda loop=loop: clock_of(loop.run_update)) for steps, loop in loops.items()},
                   options.repeats)
        loop, sizes = loops[2], []
        for other in loops.values():
            if other is not loop: other.player.close()
        del loops, other
        for _ in range(ITERATIONS): loop.run_update(); gc.collect(); sizes.append(resident())
        loop.player.close()
    turns, seconds = np.array(list(t)), np.array(list(t.values()))
    slope, start, fit = straight(turns, seconds)
    before, after = median(sizes[WARM - 5:WARM]), median(sizes[-5:])
    growth = after / before - 1
    return "\n\n".join([
        "Iterations of PPO on NumberLine, 16 environments, minibatches of 16, 2 epochs, answers of 32 tokens; "
        "medians of processor time, one thread, sizes in turn.",
        table(["turns", "time of an iteration", "of a turn"],
              [[n, f"{s:.3f} s", f"{1000 * s / n:.2f} ms"] for n, s in zip(turns, seconds)]),
        f"A straight line: {1000 * slope:.2f} ms a turn and {1000 * start:.0f} ms besides, R² = {fit:.4f} (target: "
        f"above 0.99, {'met' if fit > 0.99 else '**missed**'}).",
        f"Resident memory over {ITERATIONS} iterations: {before:.0f} MB after {WARM}, {after:.0f} MB at the end, "
        f"{growth:+.1%} (target: growth below 2 %, {'met' if growth < 0.02 else '**missed**'})."])
