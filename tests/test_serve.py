("A real OpenAI-compatible server on this machine: `transformers serve` with a tiny checkpoint "
 "labels episodes end to end.")
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
import pytest

pytest.importorskip("uvicorn", reason="pip install 'transformers[serving]'")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "A checkpoint that has learned the form of NumberLine's answers, and the address of a server of it."
    from rl4vlm.config import SFTConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.sft import train_sft
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    folder, task = tmp_path_factory.mktemp("served"), make_task("NumberLine")
    build_tiny(folder/"base", texts=frame_texts(task, sample_frames(task, 20)))
    rows = [dict(messages=t.messages + [dict(role="assistant", content=t.text)], images=t.images)
            for e in play(task, OracleActor(task), range(40)) for t in e.turns]
    policy = VLMPolicy.load(folder/"base")
    train_sft(rows, policy, SFTConfig(steps=60, optim=dict(batch_size=16), run=dict(save_every=1000)), folder/"sft")
    policy.model.save_pretrained(folder/"model"); policy.processor.save_pretrained(folder/"model")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    (folder/"cache").mkdir()
    command = [shutil.which("transformers", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"),
               "serve", str(folder/"model"), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(folder/"log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log,
                                  env={**os.environ, "HF_HUB_CACHE": str(folder/"cache"), "HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.time() + 120
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert server.poll() is None and time.time() < deadline, (folder/"log").read_text()[-2000:]
                time.sleep(0.3)
        yield folder/"model", f"http://127.0.0.1:{port}/v1"
    finally: server.terminate(); server.wait(30)


def test_it_labels_episodes(served, rl4vlm, tmp_path):
    from rl4vlm.store import EpisodeStore
    model, url = served
    arguments = ["collect", "--episodes", 4, "--task_options.max_turns", 3, "--ask.max_new_tokens", 60]
    rl4vlm(*arguments, "--actor", f"openai:{model}@{url}", "--out", "server")
    rl4vlm(*arguments, "--actor", f"local:{model}", "--out", "here")
    rows, here = (EpisodeStore(tmp_path/name/"data"/"episodes").read() for name in ("server", "here"))
    # the same model, greedy: images and prompts arrive as they are
    assert [r for r in rows["text"]] == [r for r in here["text"]]
    assert sum(c is None for c in rows["cause"]) > len(rows) / 2 and set(rows["actor"]) == {f"openai:{model}"}
    counts = rl4vlm("preprocess", "--data", "server/data/episodes", "--out", "server", "--validation_share", 0).stdout
    assert "rows to train on" in counts


@pytest.mark.slow
def test_it_plays_a_panel_beside_the_same_model_here(served, rl4vlm, tmp_path):
    "One table with both; greedy, they are the same player."
    import json
    model, url = served
    rl4vlm("eval", "--compare", model, f"openai:{model}@{url}", "--panel", "val-50", "--task_options.max_turns", 1,
           "--sampling.max_new_tokens", 60, "--baselines", "false", "--out", "both")
    results = json.loads((tmp_path/"both"/"results.json").read_text())
    here, there = results["rows"]
    assert there["name"].startswith("openai:")
    assert here["greedy_success"] == there["greedy_success"] and 0 < here["greedy_success"]
    [greedy] = [c for c in results["comparisons"] if c["play"] == "greedy"]
    assert (greedy["only_a"], greedy["only_b"], greedy["episodes"]) == (0, 0, 50)
