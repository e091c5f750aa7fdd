"Stores: bounded memory, files that can be read, images of others refused at the door, folders that cannot be written."
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
import numpy as np
import pytest
from rl4vlm.core import UsageError
from rl4vlm.store import Album, EpisodeStore, Kept
from rl4vlm.types import Episode, turn_of

@pytest.mark.parametrize("what, most", [("collect", 250), ("eval", 250), ("tiny", 350)])
def test_frames_are_not_held(what, most, tmp_path):
    "30 episodes of 20 frames of 720 kB are 432 MB and more; what is held does not depend on their number."
    done = subprocess.run([sys.executable, Path(__file__).parent/"big_images.py", what, "30", tmp_path/"out"],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < most


def episode(number, turns=3, side=30):
    rng = np.random.default_rng(number)
    made = [turn_of([dict(role="user", content=[dict(type="image")])],
                    [rng.integers(0, 256, (side, side, 3), np.uint8)], f"answer {i}", action="+", reward=1.0,
                    episode=f"0-{number}", index=i, seed=number) for i in range(turns)]
    return Episode("NumberLine", number, made, success=True, actor="a")


@pytest.fixture
def small_files(monkeypatch):
    import rl4vlm.store
    monkeypatch.setattr(rl4vlm.store, "SHARD_BYTES", 250_000); monkeypatch.setattr(rl4vlm.store, "GROUP_BYTES", 50_000)


def test_a_shard_is_cut_by_bytes(tmp_path, small_files):
    import pyarrow.parquet as pq
    store, played = EpisodeStore(tmp_path), [episode(i, side=100) for i in range(12)]
    path = store.write(iter(played), "x")
    assert path == tmp_path/"x.parquet" and len(store.files("x")) > 2
    assert max(p.stat().st_size for p in store.files("x")) < 450_000 and not list(tmp_path.glob("*.tmp"))
    assert pq.ParquetFile(path).num_row_groups > 3
    rows = store.read()
    assert rows["text"][:] == [t.text for e in played for t in e.turns]
    for row, turn in zip(rows, (t for e in played for t in e.turns)):
        assert np.array_equal(np.asarray(row["images"][0]), turn.images[0])
    again = store.episodes("x")
    assert [(e.id, len(e), e.success) for e in again] == [(e.id, 3, True) for e in played]   # no episode is cut in two
    store.write(played[:1], "x")   # what is left of the longer one goes
    assert [p.name for p in store.shards] == ["x.parquet"] and len(store.episodes()) == 1
    store.write(played, "x"); store.write(played[:2], "y")
    assert len(store.episodes("y")) == 2 and store.whole("x")
    part = store.files("x")[1]; part.write_bytes(part.read_bytes()[:-20])
    assert not store.whole("x") and store.whole("y")
    with pytest.raises(UsageError, match="part001.parquet cannot be read"): store.read()


def test_a_failed_write_leaves_nothing(tmp_path, small_files):
    store = EpisodeStore(tmp_path); store.write([episode(0)], "x")
    before = store.shards[0].read_bytes()
    def broken():
        for i in range(5): yield episode(i)
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError): store.write(broken(), "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"] and store.shards[0].read_bytes() == before


def test_an_album_gives_back_what_it_took(tmp_path):
    with Album(tmp_path/"a") as album:
        images = [np.random.default_rng(i % 3).integers(0, 256, (9, 7, 3), np.uint8) for i in range(9)]
        kept = [album.put(p) for p in images]
        assert len({id(k) for k in kept}) == 3 and isinstance(kept[0], Kept) and list((tmp_path/"a").iterdir()) == []
        for k, p in zip(kept, images): assert np.array_equal(np.asarray(k), p)


def test_a_store_is_the_same_with_and_without_an_album(tmp_path):
    from rl4vlm.rollout import RandomActor, play
    from rl4vlm.tasks import make_task
    for options in (dict(), dict(history=2, history_images=True)):
        task = make_task("NumberLine", **options)
        with Album(tmp_path/"album") as album:
            one = EpisodeStore(tmp_path/"one").write(play(task, RandomActor(task), range(6), 3, album=album),
                                                     "x").read_bytes()
        assert one == EpisodeStore(tmp_path/"two").write(play(task, RandomActor(task), range(6), 3), "x").read_bytes()


def test_words_that_no_encoding_holds(tmp_path):
    e = episode(0)
    e.turns[-1].action = "half \ud83d"
    e.turns[0].response.text, e.turns[0].prompt.messages = "half \ud83d", [dict(role="user", content="\udc00")]
    EpisodeStore(tmp_path).write([e])
    assert EpisodeStore(tmp_path).read()["text"][0] == "half \ufffd"
    assert EpisodeStore(tmp_path).episodes()[0].turns[-1].action == "half \ufffd"


# -- images of others at the store's door

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


@pytest.mark.parametrize("image, says", [(dict(bytes=None, path="SECRET"), "only named"),
                                         (dict(bytes=None, path="https://example.org/a.png"), "only named"),
                                         (dict(bytes=EPS, path="a.eps"), "no image of a known kind"),
                                         (dict(bytes=b"", path="SECRET"), "no image")])
def test_images_of_others_do_not_leave(image, says, tmp_path, monkeypatch):
    "Neither to a judge nor into new data, by any reader of a store."
    import pyarrow.parquet as pq
    from PIL import Image
    from rl4vlm.config import FilterConfig, PreprocessConfig
    from rl4vlm.labellers import ServerActor
    from rl4vlm.preprocess import preprocess
    from rl4vlm.store import write_card
    def no(*a, **k): raise AssertionError("a judge was asked")
    monkeypatch.setattr(ServerActor, "ask", no)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path/"secret.png")
    store = EpisodeStore(tmp_path/"theirs"); path = store.write([episode(0), episode(1)])
    rows = pq.read_table(path)
    listed = rows.column("images").to_pylist()
    listed[4] = [{k: str(tmp_path/"secret.png") if v == "SECRET" else v for k, v in image.items()}]
    import pyarrow as pa
    pq.write_table(rows.set_column(rows.schema.get_field_index("images"), rows.schema.field("images"),
                                   pa.array(listed, rows.schema.field("images").type)), path)
    score = FilterConfig(judge="openai:j@http://127.0.0.1:9/v1")
    for read in (store.read, lambda: write_card(store, "NumberLine", "a"),
                 lambda: preprocess(PreprocessConfig(data=str(store.folder), out=str(tmp_path/"run"), filter=score)),
                 lambda: preprocess(PreprocessConfig(data=str(store.folder), out=str(tmp_path/"run")))):
        with pytest.raises(UsageError, match="00000.parquet, row 4: ") as error: read()
        assert says in str(error.value)
    assert not (tmp_path/"run"/"data"/"train.parquet").exists()


@pytest.mark.parametrize("columns", [dict(question=["a"]), dict(images=[[1]], text=["a"]),
                                     dict(images=["a.png"], messages=["[]"], text=["a"])])
def test_a_store_of_something_else(columns, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table(columns), tmp_path/"00000.parquet")
    with pytest.raises(UsageError) as error: EpisodeStore(tmp_path).read()
    assert "\n" not in str(error.value)


# -- a folder that is read only

@contextlib.contextmanager
def nobody(folder):
    "A folder that this process may read and not write."
    for p in [folder, *folder.rglob("*")]: p.chmod(0o555 if p.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0: os.seteuid(65534)
    try: yield
    finally:
        if user == 0: os.seteuid(0)
        for p in [folder, *folder.rglob("*")]: p.chmod(0o755 if p.is_dir() else 0o644)


def test_data_that_cannot_be_written_to(monkeypatch):
    from rl4vlm.config import PreprocessConfig
    from rl4vlm.conversations import JsonConversations
    from rl4vlm.preprocess import Conversations, preprocess
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")     # that of a test run is for its owner alone
    folder = Path(tempfile.mkdtemp()); folder.chmod(0o755)
    try:
        EpisodeStore(folder/"episodes").write([episode(i) for i in range(3)])
        preprocess(PreprocessConfig(data=str(folder/"episodes"), out=str(folder), validation_share=0, export="llava"))
        for cache in folder.rglob(".cache"): shutil.rmtree(cache)
        JsonConversations(folder/"data/llava/train.json")   # what Python has to import for it is where nobody may read
        with nobody(folder):
            with pytest.raises(OSError): (folder/"x").touch()
            assert len(EpisodeStore(folder/"episodes").read()[0]["images"]) == 1
            rows = Conversations(folder/"data"/"train.parquet")
            assert len(rows) == 9
            assert len(rows[0]["images"]) == 1 and len(JsonConversations(folder/"data/llava/train.json")) == 9
        assert not list(folder.rglob(".cache"))
    finally: shutil.rmtree(folder)
