"Trackers in several processes: one writes, and all agree on an error."
import json
import os
import subprocess
import sys
import pytest
from conftest import ROOT

SCRIPT = """
import os, sys
from accelerate import PartialState
from rl4vlm.core import UsageError
from rl4vlm.tracking import start_trackers
folder, ready = sys.argv[1], sys.argv[2] == "ready"
if ready: assert PartialState(cpu=True).num_processes == 2
rank = int(os.environ["RANK"])
with start_trackers(["tensorboard"], folder) as trackers: trackers.log(dict(step=1, rank=rank))
if rank == 0: sys.modules["wandb"] = None    # cannot be imported, on one rank only
if ready:
    try: start_trackers(["wandb"], folder)
    except UsageError as e: open(f"{folder}/error_{rank}", "w").write(str(e))
"""


@pytest.mark.parametrize("when", ["ready", "early"])   # after the processes have found each other, or before
def test_one_process_writes_and_all_stop_together(tmp_path, when):
    (tmp_path/"script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           tmp_path/"script.py", tmp_path/"run", when], capture_output=True, text=True,
                          timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    assert ([json.loads(line) for line in (tmp_path/"run/metrics.jsonl").read_text().splitlines()]
            == [dict(step=1, rank=0)])
    assert len([p for p in (tmp_path/"run/tensorboard").rglob("*tfevents*") if b"rank" in p.read_bytes()]) == 1
    if when == "ready":
        assert "pip install wandb" in (tmp_path/"run/error_0").read_text()
        assert (tmp_path/"run/error_0").read_text() == (tmp_path/"run/error_1").read_text()
