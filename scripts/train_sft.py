r"""Supervised fine-tuning in fifteen lines: copy this file and change it.

    rl4vlm collect --task NumberLine --out runs/collect
    rl4vlm preprocess --data runs/collect/data/episodes --out runs/collect
    python scripts/train_sft.py --task NumberLine --data runs/collect/data --out runs/sft

fine-tunes a tiny model on a laptop's CPU. For a real one, on one GPU on which it fits in bfloat16
together with the activations of a batch (less --optim.batch_size and more --optim.accumulate, less memory):

    python scripts/train_sft.py --model Qwen/Qwen2.5-VL-3B-Instruct --lora.r 128 \
        --optim.lr 1e-5 --optim.batch_size 4 --optim.accumulate 8 --data runs/collect/data --out runs/sft3b

Every field of `SFTConfig` is an option, and `--help` explains each.
"""
from dataclasses import asdict
from jsonargparse import auto_cli
from rl4vlm.commands import check_for_model, panel_success, sft_rows
from rl4vlm.config import SFTConfig
from rl4vlm.policy import VLMPolicy
from rl4vlm.preprocess import check_task
from rl4vlm.run_folder import claim_run_folder
from rl4vlm.sft import train_sft
from rl4vlm.tasks import Task
from rl4vlm.tiny import resolve_model

def show(step, steps, loss):
    "Called now and then with the loss."
    print(f"{step}/{steps} loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    config = auto_cli(SFTConfig, as_positional=False)
    task, rows = Task.from_config(config), sft_rows(config)
    validation = sft_rows(config, "validation") if config.best == "loss" else ()
    if config.check_actions and not config.captions: check_task(rows, task)
    claim_run_folder(config.out, asdict(config), config.resume, config.overwrite)
    model = resolve_model(config.model, task)
    for part in (rows, validation): check_for_model(part, config, model)
    policy = VLMPolicy.from_config(config, model)
    print(train_sft(rows, policy, config, f"{config.out}/sft", progress=show, validation=validation,
                    success=lambda p: panel_success(task, p, config.max_new_tokens)))
