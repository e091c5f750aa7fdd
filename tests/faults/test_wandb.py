"W&B that cannot be reached: the real client, and on loopback a server that answers as far as the client asks here."
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
from conftest import ROOT
from rl4vlm.tracking import read_wandb, wandb_rows

RUN = """
import sys
from pathlib import Path
from rl4vlm import tracking
tracking.PATIENCE.update(init_timeout=5, finish_timeout=5)
with tracking.start_trackers(["wandb"], "run") as trackers:
    trackers.log(dict(step=1, kl=0.1))
    print("first", flush=True); sys.stdin.readline()
    trackers.log(dict(step=2, kl=0.2))
print("done", flush=True)
"""
BUCKET = dict(id="aWQ=", name="abcd", displayName="run", description="", config="{}", sweepName=None,
              historyLineCount=0, project=dict(id="p", name="rl4vlm", entity=dict(id="e", name="me")))


class Server(BaseHTTPRequestHandler):
    "Takes a run and whatever is sent of it."
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip": body = gzip.decompress(body)
        self.server.seen.append((self.path, body.decode(errors="replace")))
        answer = dict(data=dict(upsertBucket=dict(bucket=BUCKET, inserted=True)) if b"upsertBucket" in body else {})
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_PUT = do_POST
    def log_message(self, *args): pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown(); server.server_close()


def start(tmp_path, port):
    "The run, as far as its first line."
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("WANDB")}, "WANDB_API_KEY": "0123456789" * 4,
           "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path, env=env, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "first\n", process.communicate()
    return process


def finish(process, tmp_path):
    "What it says until its end; the file is whole."
    try: out, errors = process.communicate("\n", timeout=90)
    except subprocess.TimeoutExpired: process.kill(); raise
    assert process.returncode == 0 and "done\n" in out, errors
    assert ([json.loads(line) for line in (tmp_path/"run/metrics.jsonl").read_text().splitlines()]
            == [dict(step=1, kl=0.1), dict(step=2, kl=0.2)])
    return errors


def rows(tmp_path):
    return [(r["step"], r["kl"]) for p in (tmp_path/"run/wandb").glob("*run-*/*.wandb")
            for r in wandb_rows(read_wandb(p)) if "kl" in r]


def test_not_there_at_the_start(tmp_path):
    "The run is kept in a folder that can be sent later."
    errors = finish(start(tmp_path, 9), tmp_path)   # nobody listens at port 9
    assert "W&B cannot be reached, training goes on" in errors and "wandb sync" in errors
    assert rows(tmp_path) == [(1, 0.1), (2, 0.2)] and list((tmp_path/"run/wandb").glob("offline-run-*/*.wandb"))


def test_gone_in_the_middle(tmp_path, server):
    "What W&B has not taken after a while stays in the folder; its client would wait for ever."
    process, until = start(tmp_path, server.server_address[1]), time.monotonic() + 30
    while time.monotonic() < until and not any(path.endswith("file_stream") for path, _ in server.seen): time.sleep(0.1)
    assert any("upsertBucket" in body for _, body in server.seen)
    server.shutdown(); server.server_close()
    said = finish(process, tmp_path)
    assert "tracker wandb failed, training goes on; the metrics in the run folder are complete (TimeoutError" in said
    assert rows(tmp_path) == [(1, 0.1), (2, 0.2)]
