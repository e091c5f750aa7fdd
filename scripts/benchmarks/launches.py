"""every way to launch, two processes beside one

SFT, PPO, RLOO and TRL's RLOO on a tiny model, started as a user starts them: one process, DDP by torchrun, ZeRO-2 and
ZeRO-3 by accelerate with the files of scripts/accelerate. Beside the time, how far the first losses are from those of
one process; TRL shuffles its prompts over processes, so there only that it ends well. And the small launch scripts."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from iteration import base_model
from measure import table

TITLE = "Launches"
ROOT = Path(__file__).resolve().parents[2]
RL = ("ppo --task NumberLine --task_options.max_turns 8 --updates 2 --rollout.envs 8 --rollout.steps 4 "
      "--optim.minibatch 512 --sampling.max_new_tokens 8 --run.eval_every 2 --optim.value_warmup 0 --kl.max 0 --seed 5")
STAGES = {"SFT": "sft --task NumberLine --steps 20 --optim.batch_size 8", "PPO": RL,
          "RLOO": f"{RL} --advantage.estimator rloo --group_size 4 --kl.coef 0.05",
          "TRL's RLOO": "trl-rloo --task PickImage --steps 2 --prompts 4 --group_size 2 --sampling.max_new_tokens 8"}
LOSSES = {"SFT": ["loss"], "PPO": ["policy_loss", "value_loss", "grad_norm"],
          "RLOO": ["policy_loss", "kl_loss", "grad_norm"]}


def modes():
    "{name: how the command begins}."
    accelerate = lambda file: [sys.executable, "-m", "accelerate.commands.launch",
                               "--config_file", str(ROOT/"scripts/accelerate"/file)]
    return {"one process": [sys.executable],
            "DDP": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
            "ZeRO-2": accelerate("zero2.yaml"), "ZeRO-3": accelerate("zero3.yaml")}


def launched(command, folder=ROOT, env={}):
    "(exit code, seconds, output) of a command."
    start = time.time()
    p = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=900, cwd=folder,
                       env={**os.environ, "OMP_NUM_THREADS": "1", **env})
    return p.returncode, time.time() - start, p.stdout + p.stderr


def rows_of(run):
    file = next(p for p in (run/"metrics.jsonl", run/"sft/metrics.jsonl") if p.exists())
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(options):
    "The section of the report."
    with tempfile.TemporaryDirectory() as folder:
        folder, found, first = Path(folder), [], {}
        bases = {task: base_model(folder/task, task=task) for task in ("NumberLine", "PickImage")}
        for command in ("collect --task NumberLine --episodes 20",
                        f"preprocess --data {folder}/examples/data/episodes --validation_share 0.2"):
            launched([sys.executable, "-m", "rl4vlm.cli", *command.split(), "--out", folder/"examples"])
        for stage, arguments in STAGES.items():
            for mode, begin in modes().items():
                out = folder/f"{stage} {mode}"
                more = ["--data", folder/"examples/data"] if stage == "SFT" else []
                code, seconds, output = launched([*begin, "-m", "rl4vlm.cli", *arguments.split(),
                                                  "--model", bases["PickImage" if "TRL" in stage else "NumberLine"],
                                                  "--out", out, *more])
                gap = "–"
                if code == 0 and stage in LOSSES:
                    row = [r for r in rows_of(out) if LOSSES[stage][0] in r][0]
                    first.setdefault(stage, row)
                    known = first[stage]
                    largest = max(abs(row[k] - known[k]) / max(abs(known[k]), 1e-6) for k in LOSSES[stage])
                    gap = f"{largest:.0e}" if mode != "one process" else "–"
                found.append([stage, mode, "ended well" if code == 0 else f"**exit code {code}**", gap,
                              f"{seconds:.0f} s"])
                if code: print(output[-3000:], file=sys.stderr)
        place = folder/"place"      # the scripts write into the folder they lie in
        shutil.copytree(ROOT/"scripts", place/"scripts")
        cases = [(script.name, {}) for script in sorted((ROOT/"scripts").glob("*_test.sh"))]
        cases += [(script, dict(PROCESSES="2", STAGE=stage))
                  for script in ("run_nl_test.sh", "run_minigrid_sft_test.sh") for stage in ("ddp", "zero2", "zero3")]
        scripts = []
        for script, env in cases:
            code, seconds, output = launched(["bash", place/"scripts"/script,
                                              *(["--overwrite", "true"] if env else [])], place,
                                             dict(env, PYTHONPATH=str(ROOT)))
            scripts.append([" ".join([*(f"{k}={v}" for k, v in env.items()), script]),
                            "ended well" if code == 0 else f"**exit code {code}**", f"{seconds:.0f} s"])
            if code: print(output[-3000:], file=sys.stderr)
    return ("Times are of the whole command with its start, one thread a process. The third column: "
            "largest relative difference of the first update's losses and norm\n"
            "of the gradient (for SFT: of the first ten steps' mean loss) from those of one process.\n\n"
            + table(["stage", "mode", "result", "difference", "time"], found) + "\n\n"
            + table(["script", "result", "time"], scripts))
