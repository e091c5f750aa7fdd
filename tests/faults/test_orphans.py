"Whatever ends a run ends what its environments have started, whether they live in this process or in workers."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
import pytest
from forgetful import Starting
from rl4vlm.env_pool import EnvPool, live_processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
SCRIPT = """
import os, sys, time, signal; sys.path.insert(0, sys.argv[1])
from forgetful import Starting
from rl4vlm.env_pool import EnvPool
from rl4vlm.run_folder import StopSignal
pool = EnvPool(Starting(notes=sys.argv[2]), 2, workers=int(sys.argv[3]))
pool.reset({0: 1, 1: 2}); print("ready", flush=True)
if sys.argv[4] == "normal": sys.exit()
if sys.argv[4] == "error": raise KeyError("an error")
with StopSignal() as stop: time.sleep(1000) if sys.argv[4] == "SIGTERM twice" else None
while True: time.sleep(1)
"""


def started(folder): return {int(p.name) for p in Path(folder).iterdir()}


def gone(pids, seconds=10):
    end = time.monotonic() + seconds
    while (left := set(pids) & live_processes().keys()) and time.monotonic() < end: time.sleep(0.05)
    for pid in left: os.kill(pid, signal.SIGKILL)
    return not left


@pytest.mark.parametrize("workers", [0, 1])
def test_a_closed_pool_leaves_nothing(tmp_path, workers):
    pool = EnvPool(Starting(notes=str(tmp_path)), 2, workers=workers)
    pool.reset({0: 1, 1: 2})
    pids = started(tmp_path)
    assert len(pids) == 4 and pids <= live_processes().keys()
    pool.close()
    assert gone(pids)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("way", ["normal", "error", "SIGINT", "SIGTERM", "SIGTERM twice", "SIGHUP", "SIGKILL"])
def test_nothing_outlives_a_run(tmp_path, workers, way):
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path), str(workers), way],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))   # nohup has it ignored
    assert run.stdout.readline() == b"ready\n", run.stderr.read()
    pids = started(tmp_path)
    everything = pids | {pid for pid, (parent, _) in live_processes().items() if parent == run.pid}
    assert len(pids) == 4
    if way.startswith("SIG"): time.sleep(0.2); os.kill(run.pid, getattr(signal, way.split()[0]))
    if way == "SIGTERM twice": time.sleep(2.2); os.kill(run.pid, signal.SIGTERM)
    run.communicate(timeout=20)
    assert gone(everything)
