r"""PPO in fifteen lines: copy this file and change it.

    python scripts/train_ppo.py --task NumberLine --model runs/sft/sft --out runs/ppo --updates 40

goes on from what scripts/train_sft.py leaves: a tiny model, on a laptop's CPU. For a real one, on one GPU on which it
fits in bfloat16 together with the activations of a part of a minibatch (more --optim.microbatches, less memory):

    python scripts/train_ppo.py --task NumberLine --model Qwen/Qwen2.5-VL-3B-Instruct --lora.r 128 \
        --optim.lr 1e-5 --optim.microbatches 16 --out runs/ppo3b

Every field of `PPOConfig` is an option, and `--help` explains each.
"""
from dataclasses import asdict
from jsonargparse import auto_cli
from rl4vlm.config import PPOConfig
from rl4vlm.policy import VLMPolicy
from rl4vlm.ppo import train_ppo
from rl4vlm.run_folder import claim_run_folder
from rl4vlm.tasks import Task
from rl4vlm.tiny import resolve_model

def show(row, ppo):
    "Called after each update with its metrics and the trainer: print, plot, or raise to stop."
    print(row["step"], {k: row[k] for k in ("success", "mean_return", "kl", "val_success") if row.get(k) is not None},
          flush=True)


if __name__ == "__main__":
    config = auto_cli(PPOConfig, as_positional=False)
    task = Task.from_config(config)
    claim_run_folder(config.out, asdict(config), config.resume, config.overwrite)
    policy = VLMPolicy.from_config(config, resolve_model(config.model, task))
    summary = train_ppo(task, policy, config, callbacks=[show], folder=config.out)
    print(summary["best"], summary["folder"])
