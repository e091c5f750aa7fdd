"""collecting and preprocessing

A thousand NumberLine episodes played by the oracle and stored with their images, and a dataset of 50 000 turns made
into conversations, with the memory that takes."""
import subprocess
import sys
import tempfile
import time
from pathlib import Path
import numpy as np
from measure import table

TITLE = "Data"
PREPROCESS = """
import re, sys, time
from pathlib import Path
from rl4vlm.config import PreprocessConfig
from rl4vlm.preprocess import preprocess
start = time.process_time()
counts = preprocess(PreprocessConfig(data=sys.argv[1], out=sys.argv[2]))
seconds = time.process_time() - start
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]   # ru_maxrss begins at its parent's
print(counts["train"] + counts["validation"], seconds, int(peak) / 2**20)
"""


def collected(folder):
    "Processor and wall seconds of a thousand episodes, and their number of turns."
    from rl4vlm.collect import collect
    from rl4vlm.config import CollectConfig
    from rl4vlm.store import EpisodeStore
    start, wall = time.process_time(), time.perf_counter()
    store = collect(CollectConfig(episodes=1000, out=str(folder)))
    return time.process_time() - start, time.perf_counter() - wall, len(EpisodeStore(store).read())


def many_turns(folder, count=50_000, shard=1000):
    "A store of so many turns; each has an image of its own."
    from rl4vlm.store import EpisodeStore
    from rl4vlm.types import Episode, turn_of
    random, store = np.random.default_rng(0), EpisodeStore(folder)
    message = [dict(role="user", content=[dict(type="image"), dict(type="text", text="Which number is larger? " * 8)])]
    for start in range(0, count, shard):
        episodes = []
        for e in range(start, start + shard, 5):
            images = [np.kron(random.integers(0, 255, (25, 25, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
                      for _ in range(5)]
            episodes.append(Episode("NumberLine", e, [
                turn_of(message, [p], '{"thoughts": "one is larger", "action": "+"}', action="+", played="+",
                        episode=str(e), index=i)
                for i, p in enumerate(images)]))
        store.write(episodes)
    return store.folder


def run(options):
    "The section of the report."
    with tempfile.TemporaryDirectory() as folder:
        processor, wall, turns = collected(Path(folder)/"collect")
        turns_in = many_turns(Path(folder)/"many")
        size = sum(p.stat().st_size for p in turns_in.glob("*.parquet")) / 2**20
        done = subprocess.run([sys.executable, "-c", PREPROCESS, str(turns_in), f"{folder}/out"], capture_output=True,
                              text=True, check=True)
        rows, seconds, memory = (float(w) for w in done.stdout.split()[-3:])
    return table(["", "measured", "target"], [
        [f"1 000 NumberLine episodes by the oracle, {turns} turns stored with their images",
         f"{processor:.1f} s of processor time, {wall:.1f} s on the clock",
         f"under 20 s {'met' if processor < 20 else '**missed**'}"],
        [f"{int(rows):,} turns ({size:.0f} MB of shards) made into conversations".replace(",", " "),
         f"{seconds:.1f} s of processor time", ""],
        ["the most memory that took", f"{memory:.2f} GB", f"under 1.5 GB {'met' if memory < 1.5 else '**missed**'}"]])
