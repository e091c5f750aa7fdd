"""Beside other busy programs: the tiny model's turns a second, and processor time's fair share.

Each row is measured beside k loops that do nothing but count. The fair share of a program of one thread is what the
scheduler gives to one of k + 1 equals on these cores. "As before" is torch's own way: a thread for each core, which
spin while they wait for each other.
"""
import os
import subprocess
import sys

TITLE = "A busy machine"
CODE = """
import sys, time, numpy as np
import rl4vlm
from rl4vlm.policy import VLMPolicy
from rl4vlm.rollout import PolicyActor, play
from rl4vlm.tasks import make_task
policy, task = VLMPolicy.load(sys.argv[1]), make_task("NumberLine")
actor = PolicyActor(policy, 16)
play(task, actor, range(2), 8)
start, turns, limit = time.perf_counter(), 0, float(sys.argv[2])
while time.perf_counter() - start < limit: turns += sum(map(len, play(task, actor, range(8), 8)))
import torch
print(turns / (time.perf_counter() - start), torch.get_num_threads())
"""
WAYS = {"as it comes": {}, "as before": dict(OMP_WAIT_POLICY="active", OMP_NUM_THREADS="")}


def rate(model, way, loops, seconds=4.0):
    "(turns a second, threads) of the tiny model beside `loops` busy loops."
    cores = len(os.sched_getaffinity(0))
    environment = ({k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
                   | {k: v or str(cores) for k, v in WAYS[way].items()})
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        done = subprocess.run([sys.executable, "-c", CODE, str(model), str(seconds)], env=environment,
                              capture_output=True, text=True, check=True)
    finally:
        for p in beside: p.kill(); p.wait()
    speed, threads = done.stdout.split()[-2:]
    return float(speed), int(threads)


def run(options):
    import tempfile
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    task, cores = make_task("NumberLine"), len(os.sched_getaffinity(0))
    lines = ["| | threads | alone | beside 3 loops | ratio to the fair share | target |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]
    with tempfile.TemporaryDirectory() as folder:
        model = build_tiny(folder, texts=frame_texts(task, sample_frames(task, 20)))
        for way in WAYS:
            speeds = {k: rate(model, way, k) for k in (0, 3)}
            fair = min(1.0, cores / 4)
            ratio = speeds[3][0] / speeds[0][0] / fair
            lines.append(f"| {way} | {speeds[0][1]} | {speeds[0][0]:.0f} /s | {speeds[3][0]:.1f} /s | {ratio:.2f} | "
                         f"{'0.7 ' + ('met' if ratio >= 0.7 else 'missed') if way == 'as it comes' else ''} |")
    return ("Turns a second of an untrained tiny model on NumberLine (8 environments, "
            f"answers of 16 tokens), beside busy loops on {cores} cores; "
            f"4 s each, once. With three loops the fair share of one thread is {fair:.2f} of a core.\n\n"
            + "\n".join(lines))
