("Cut, damaged and foreign files, a full disk, numbers that are not finite: a clear line, "
 "and going on wherever the rest is good.")
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import pytest
from rl4vlm.core import DamagedError
from rl4vlm.files import JsonLines, read_json, write_into, write_json
from rl4vlm.run_folder import last_trainer_checkpoint, list_checkpoints, load_newest, save_checkpoint

def strict(text):
    def refuse(name): raise AssertionError(f"{name} is no JSON")
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.float64("inf"),
                                   np.array([1.0, np.nan]), np.array(np.inf), {"deep": [(float("nan"),)]}])
def test_no_bare_nan(tmp_path, value):
    write_json(tmp_path/"a.json", dict(x=value))
    JsonLines(tmp_path/"a.jsonl").append(dict(x=value, n=np.int64(2), b=np.bool_(True)))
    strict((tmp_path/"a.json").read_text())
    assert strict((tmp_path/"a.jsonl").read_text())["n"] == 2


def test_no_nan_in_a_checkpoint_trackers_and_columns(tmp_path):
    from rl4vlm.store import EpisodeStore
    from rl4vlm.tracking import start_trackers
    from rl4vlm.types import Episode, turn_of
    save_checkpoint(tmp_path/"c", 1, lambda f: None, dict(best=dict(score=[float("nan"), np.float32(1)])))
    strict((tmp_path/"c/step_1/state.json").read_text())
    with start_trackers([], tmp_path) as trackers:
        trackers.log(dict(step=1, loss=float("nan")), dict(step=1, s=float("inf")))
    for name in ("metrics", "timing"): strict((tmp_path/f"{name}.jsonl").read_text())
    store = EpisodeStore(tmp_path/"episodes")
    store.write([Episode("NumberLine", 1, [turn_of(text="text")], columns=dict(x=np.float32("nan"), y=np.int64(1)))])
    import pyarrow.parquet as pq
    assert strict(pq.read_table(store.shards[0])["columns"][0].as_py()) == dict(x=None, y=1)


def test_a_bad_line_in_the_middle_is_named_and_the_rest_is_read(tmp_path):
    log = JsonLines(tmp_path/"metrics.jsonl")
    log.path.write_bytes(b'{"step": 1}\n{"st\xff\n[2]\n{"step": 3}\n{"step": 4, "lo')
    with pytest.warns(UserWarning, match="metrics.jsonl: line [23] cannot"):
        assert [r["step"] for r in log.read()] == [1, 3]
    log.append(dict(step=4))
    with pytest.warns(UserWarning, match="line 5"): assert [r["step"] for r in log.read()] == [1, 3, 4]
    with pytest.warns(UserWarning): log.cut_after(3)
    assert [r["step"] for r in log.read()] == [1, 3]


@pytest.mark.parametrize("content", [b"", b'{"a": [1, 2', b"\x00\x01", b"[" * 100_000, b"9" * 5000])
def test_cut_json_is_named(tmp_path, content):
    file = tmp_path/"stages.json"; file.write_bytes(content)
    with pytest.raises(DamagedError, match="stages.json cannot be read") as error: read_json(file)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="going on without"): assert read_json(file, {}) == {}


def test_copies_in_a_checkpoint_folder_are_none(tmp_path):
    for step in (3, 4): save_checkpoint(tmp_path, step, lambda f: None, {})
    import shutil
    for name in ("step_4 (copy)", "step_x", "step_-9", "step_"): shutil.copytree(tmp_path/"step_4", tmp_path/name)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_3", "step_4"]
    (tmp_path/"step_4/state.json").write_text('{"st')
    with pytest.warns(UserWarning, match="step_4 cannot be read.*going back"):
        assert load_newest(tmp_path, lambda f, s: s["step"]) == 3
    save_checkpoint(tmp_path, 5, lambda f: None, {})
    assert (tmp_path/"step_4 (copy)").exists()
    for name in ("checkpoint-2", "checkpoint-2 (copy)", "checkpoint-1"):
        (tmp_path/"t"/name).mkdir(parents=True)
        (tmp_path/"t"/name/"trainer_state.json").write_text("{}")
    (tmp_path/"t/checkpoint-2/trainer_state.json").write_text('{"glo')
    with pytest.warns(UserWarning, match="trainer_state.json is damaged"):
        assert last_trainer_checkpoint(tmp_path/"t")[1] == 1


FULL = """
import resource, sys, torch, safetensors.torch
from dataclasses import replace
from pathlib import Path
from rl4vlm.run_folder import list_checkpoints, save_checkpoint
from rl4vlm.cli import disk_trouble
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def write(f):
    safetensors.torch.save_file(dict(w=torch.zeros(1000)), f/"model.safetensors")
    torch.save(dict(m=torch.zeros(200_000)), f/"optimizer.pt")
save_checkpoint(sys.argv[1], 1, write, {})
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try: save_checkpoint(sys.argv[1], 2, write, {})
    except Exception as e:
        said = disk_trouble(e)
        assert "the disk is full" in said and "\\n" not in said, (limit, type(e), e)
    else: raise SystemExit("written all the same")
    assert [p.name for p in Path(sys.argv[1]).iterdir()] == ["step_1"]
"""


def test_a_full_disk_at_any_point_of_a_checkpoint(tmp_path):
    limits = [10, 3000, 5000, 20_000, 60_000, 100_000, 300_000, 700_000, 799_000, 800_500, 801_000]
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), *map(str, limits)], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-1500:]


def test_files_moved_into_a_folder_are_whole_and_others_stay(tmp_path):
    (tmp_path/"metrics.jsonl").write_text("x")
    write_into(tmp_path, lambda f: (f/"model").write_text("one"))
    def broken(f): (f/"model").write_text("tw"); raise OSError(28, "No space left on device")
    with pytest.raises(OSError): write_into(tmp_path, broken)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"metrics.jsonl": "x", "model": "one"}


def _build(cache):
    from rl4vlm import tiny
    tiny.RECIPE = dict(tiny.RECIPE, steps=0, width=32, layers=1)
    tiny.teach_to_see = lambda policy, *rest: 0.0
    frames = tiny.sample_frames
    tiny.sample_frames = lambda task: frames(task, 5)
    return str(tiny.tiny_vlm("qwen2_5_vl", "NumberLine", cache=cache))


def test_two_builds_of_the_tiny_model_and_a_damaged_cache(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_damaged import _build; print(_build(sys.argv[2]))"
    both = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent), str(tmp_path)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    out = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], out
    folder = Path(out[0][0].strip().splitlines()[-1])
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == [folder.name]
    weights = folder/"model.safetensors"; size = weights.stat().st_size
    os.truncate(weights, size // 2)
    with pytest.MonkeyPatch.context() as patch:
        from rl4vlm import tiny
        patch.setattr(tiny, "RECIPE", tiny.RECIPE)
        [patch.setattr(tiny, name, getattr(tiny, name)) for name in ("teach_to_see", "sample_frames")]
        with pytest.warns(UserWarning, match="model.safetensors.*made again"):
            assert _build(str(tmp_path)) == str(folder)
    assert weights.stat().st_size == size


def test_a_cache_that_cannot_be_written(tmp_path):
    from rl4vlm.core import UsageError
    (tmp_path/"file").touch()
    with pytest.MonkeyPatch.context() as patch:
        from rl4vlm import tiny
        patch.setattr(tiny, "RECIPE", tiny.RECIPE)
        [patch.setattr(tiny, name, getattr(tiny, name)) for name in ("teach_to_see", "sample_frames")]
        with pytest.raises(UsageError, match="RL4VLM_CACHE"): _build(str(tmp_path/"file"/"tiny"))


@pytest.fixture
def pipeline(tmp_path, monkeypatch, blind_model):
    "A pipeline of stages that take no time; returns the names of those that were done."
    import io
    import rl4vlm.pipeline as room
    from rl4vlm.config import PipelineConfig
    out, did = tmp_path/"run", []
    leaves = dict(base=[], collect=["data/episodes"],
                  preprocess=["data/train.parquet", "data/validation.parquet", "data/counts.json"], sft=["sft"],
                  ppo=["ppo", "metrics.jsonl"], eval=["results.json"], report=["report.html"])
    def work(name):
        def run(c, screen):
            did.append(name)
            for path in leaves[name]:
                file = out/path if "." in path else out/path/"model.safetensors"
                file.parent.mkdir(parents=True, exist_ok=True)
                if file.suffix == ".json": write_json(file, dict(rows=[]))
                elif file.suffix == ".parquet": import_pq().write_table(table(), file)
                elif file.suffix == ".safetensors": save(file, name)
                else: file.write_text(name)
        return run
    def import_pq():
        import pyarrow.parquet as pq
        return pq
    def table():
        import pyarrow as pa
        return pa.table(dict(x=[1, 2]))
    def save(file, name):
        from safetensors.numpy import save_file
        save_file(dict(w=np.full(4, len(name), np.float32)), file)
    monkeypatch.setattr(room, "STAGES", {name: replace(stage, run=work(name)) for name, stage in room.STAGES.items()})
    def run(**options):
        did.clear(); said = io.StringIO()
        room.run_pipeline(replace(PipelineConfig(model=str(blind_model), out=str(out)), **options), room.Screen(said))
        return list(did), said.getvalue()
    run(); assert len(did) == 7
    return out, run


def test_notes_beside_a_model_are_no_change(pipeline):
    out, run = pipeline
    for name in ("sft/notes.json", "sft/mine.txt", "notes.json", "ppo/notes.json", "data/notes.json"):
        (out/name).write_text("{")
    assert run(resume=True)[0] == [] and (out/"ppo/model.safetensors").exists() and (out/"sft/notes.json").exists()


def test_inputs_are_found_good_before_anything_is_thrown_away(pipeline):
    out, run = pipeline
    os.truncate(out/"sft/model.safetensors", 30)
    for how in (dict(resume=True), dict(from_stage="ppo")):
        with pytest.raises(DamagedError, match="stage ppo.*model.safetensors cannot be read; nothing was thrown away"):
            run(**how)
        assert (out/"ppo/model.safetensors").exists() and (out/"metrics.jsonl").exists()
    did, said = run(from_stage="sft")
    assert did == ["sft", "ppo", "eval", "report"] and "thrown away" in said


def test_what_is_thrown_away_is_said(pipeline):
    out, run = pipeline
    from safetensors.numpy import save_file
    save_file(dict(w=np.zeros(3, np.float32)), out/"sft/model.safetensors")
    did, said = run(resume=True)
    assert "ppo" in did and "timing.jsonl" not in said
    assert "metrics.jsonl" + "thrownaway" in "".join(said.split()) and str(out/"ppo") in "".join(said.split())


def test_stages_that_cannot_be_read(pipeline):
    out, run = pipeline
    os.truncate(out/"stages.json", 40)
    with pytest.raises(DamagedError, match="stages.json cannot be read.*--from STAGE"): run(resume=True)
    assert (out/"ppo/model.safetensors").exists()
    with pytest.warns(UserWarning, match="stages.json"): assert run(from_stage="eval")[0] == ["eval", "report"]


def test_the_evaluation_does_not_throw_away_what_training_kept(pipeline):
    out, run = pipeline
    for name in ("training", "ppo", "sft.part001"):
        (out/"episodes").mkdir(exist_ok=True)
        (out/f"episodes/{name}.parquet").touch()
    run(from_stage="eval")
    assert [p.name for p in (out/"episodes").iterdir()] == ["training.parquet"]
    run(from_stage="ppo")
    assert not list((out/"episodes").iterdir())
