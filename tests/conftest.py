"What several tests share: commands run as a user runs them, and a tiny model made once."
import os
import signal
import subprocess
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# two tests run side by side; with two threads each, they wait for each other (one test: 233 s, now 39)
os.environ["OMP_NUM_THREADS"] = "1"
# a job started in the background ignores Ctrl-C, and so would every process the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

# files of a few long tests
LONG = {"test_vllm", "test_quickstart", "test_engine", "test_kill", "test_distributed", "test_launch", "test_house"}


def pytest_collection_modifyitems(items):
    "Long files begin first, so that two workers end together."
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def registry():
    "Tasks that a test registers go with it: one of a stranger may have the name of one of ours."
    tasks = lambda: getattr(sys.modules.get("rl4vlm.tasks"), "_tasks", {})
    before = dict(tasks())
    yield
    for name in [n for n, cls in tasks().items() if not cls.__module__.startswith("rl4vlm.")]: del tasks()[name]
    tasks().update(before)


@pytest.fixture
def rl4vlm(tmp_path):
    "Run `rl4vlm ...` in an empty folder: rl4vlm('ppo', '--rollout.steps', '2') -> completed process."
    def run(*arguments, timeout=600, code=0, **env):
        done = subprocess.run([sys.executable, "-m", "rl4vlm.cli", *map(str, arguments)],
                              cwd=tmp_path, capture_output=True, text=True,
                              timeout=timeout, env={**os.environ, **env})
        if code is not None: assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done
    return run


@pytest.fixture(scope="session")
def blind_model(tmp_path_factory):
    "An untrained tiny checkpoint: seconds to make, good enough to test that things run."
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    task = make_task("NumberLine")
    return build_tiny(tmp_path_factory.mktemp("blind"), texts=frame_texts(task, sample_frames(task, 20)))
