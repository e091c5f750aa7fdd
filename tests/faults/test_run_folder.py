"A run folder belongs to one process, and only what a run made is ever deleted."
import signal
import subprocess
import sys
import time
import pytest
import yaml
from rl4vlm.core import UsageError
from rl4vlm.run_folder import claim_run_folder

CONFIG = dict(task="NumberLine", seed=0, out="run")
CLAIM = """
import sys, time
from rl4vlm.core import RL4VLMError
from rl4vlm.run_folder import claim_run_folder
try: claim_run_folder(sys.argv[1], dict(task="NumberLine", seed=0, out="run"), **{name: True for name in sys.argv[2:]})
except RL4VLMError as e: print(e); sys.exit(e.exit_code)
open(sys.argv[1] + "/metrics.jsonl", "a").close(); print("ready", flush=True); time.sleep(1000)
"""


def claim(folder, *how):
    return subprocess.Popen([sys.executable, "-c", CLAIM, str(folder), *how], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def running(tmp_path):
    first = claim(tmp_path/"run")
    assert first.stdout.readline() == "ready\n"
    yield tmp_path/"run", first
    first.kill(); first.communicate()


@pytest.mark.parametrize("how", [(), ("resume",), ("overwrite",)])
def test_a_second_command_is_refused(running, how):
    folder, first = running
    second = claim(folder, *how)
    said = second.communicate(timeout=30)[0]
    assert second.returncode == 2 and said.count("\n") == 1 and f"process {first.pid}" in said
    assert (folder/"config.yaml").exists() and first.poll() is None


def test_the_lock_ends_with_its_process(running):
    folder, first = running
    child = subprocess.Popen(["sleep", "5"])   # what the first has left behind would not hold it either
    first.send_signal(signal.SIGKILL); first.wait()
    second = claim(folder, "resume")
    assert second.stdout.readline() == "ready\n"
    for process in (second, child): process.kill(); process.communicate()


def test_of_many_at_once_one_begins(tmp_path):
    several = [claim(tmp_path/"run") for _ in range(4)]
    end = time.monotonic() + 30
    while sum(p.poll() == 2 for p in several) < 3 and time.monotonic() < end: time.sleep(0.05)
    codes = [p.poll() for p in several]
    for p in several: p.kill(); p.communicate()
    assert sorted(map(str, codes)) == ["2", "2", "2", "None"]


def test_killed_while_the_folder_is_made(tmp_path):
    "At every file that may be there and the next not yet."
    for number, left in enumerate([[], [".lock"], [".lock", ".config.yaml.7.tmp"],
                                   [".config.yaml.7.tmp"], [".lock", ".clearing", "config.yaml", "ppo/best/x"],
                                   [".lock", ".clearing", "sft/x"]]):
        for how in ({}, dict(resume=True), dict(overwrite=True)):
            folder = tmp_path/f"{number}-{len(how)}-{'resume' in how}"
            folder.mkdir()
            for name in left: (folder/name).parent.mkdir(parents=True, exist_ok=True); (folder/name).write_text("")
            claim_run_folder(folder, CONFIG, **how)
            assert yaml.safe_load((folder/"config.yaml").read_text()) == CONFIG
            assert not (folder/"ppo").exists() and not (folder/"sft").exists()


@pytest.mark.parametrize("files", [["config.yaml"], ["config.yaml", "notes.txt"], ["config.yaml", "data/mine.csv"],
                                   ["config.yaml", "ppo/mine.txt"], ["photo.png"]])
@pytest.mark.parametrize("how", [{}, dict(resume=True), dict(overwrite=True)])
def test_what_no_run_made_is_left_alone(tmp_path, files, how):
    for name in files: (tmp_path/name).parent.mkdir(exist_ok=True); (tmp_path/name).write_text("model: mine")
    with pytest.raises(UsageError, match="is not a run folder"): claim_run_folder(tmp_path, CONFIG, **how)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(files)


def test_foreign_files_survive_overwrite_and_are_named(tmp_path):
    run = claim_run_folder(tmp_path/"run", CONFIG)
    for name in ("metrics.jsonl", "data/train.parquet", "data/mine.csv", "ppo/best/config.json", "thesis.tex"):
        (run/name).parent.mkdir(parents=True, exist_ok=True)
        (run/name).touch()
    with pytest.warns(UserWarning, match="thesis.tex"): claim_run_folder(run, CONFIG, overwrite=True)
    assert (sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.name[0] != ".")
            == ["config.yaml", "data/mine.csv", "thesis.tex"])


def test_a_run_of_an_earlier_version_is_resumed_and_replaced(tmp_path):
    (tmp_path/"config.yaml").write_text(yaml.safe_dump(CONFIG)); (tmp_path/"metrics.jsonl").touch()
    claim_run_folder(tmp_path, CONFIG, resume=True)
    claim_run_folder(tmp_path, CONFIG, overwrite=True)
    assert not (tmp_path/"metrics.jsonl").exists()


WRITER = """
import sys
from rl4vlm.files import replace_folder
import rl4vlm.core as core
if sys.argv[2] == "slow": core._exchange = lambda a, b: False
def write(folder):
    for name in "abcdefgh": (folder/name).write_text(str(number) * 1000)
for number in range(10**6): replace_folder(sys.argv[1], write); print(number, flush=True)
"""


@pytest.mark.parametrize("way", ["exchange", "slow"])
def test_a_replaced_folder_is_whole_whenever_it_is_killed(tmp_path, way):
    for moment in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path/"best"), way], stdout=subprocess.PIPE)
        writer.stdout.readline(); time.sleep(0.003 * moment)
        writer.kill(); writer.communicate()
        if way == "slow":
            from rl4vlm.files import recover_folder
            recover_folder(tmp_path/"best")
        assert len({(tmp_path/"best"/name).read_text() for name in "abcdefgh"}) == 1
