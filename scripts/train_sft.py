"""Supervised fine-tuning in fifteen lines: copy this file and change it.

    rl4vlm collect --task NumberLine --out runs/collect
    rl4vlm preprocess --data runs/collect/data/episodes --out runs/collect
    python scripts/train_sft.py --task NumberLine --data runs/collect/data --out runs/sft

fine-tunes a tiny model on a laptop's CPU. For a real one, on one GPU on which it fits in bfloat16
together with the activations of a batch (less --batch_size and more --accumulate, less memory):

    python scripts/train_sft.py --model Qwen/Qwen2.5-VL-3B-Instruct --lora.r 128 --lr 1e-5 --batch_size 4 --accumulate 8 --data runs/collect/data --out runs/sft3b

Every field of `SFTConfig` is an option, and `--help` explains each.
"""
from dataclasses import asdict
from jsonargparse import auto_cli
from rl4vlm.config import SFTConfig
from rl4vlm.core import claim_run_folder, seed_everything
from rl4vlm.models import load_vlm
from rl4vlm.policy import VLMPolicy
from rl4vlm.preprocess import Conversations
from rl4vlm.sft import train_sft
from rl4vlm.tiny import resolve_model


def show(step, steps, loss):
    "Called now and then with the loss."
    print(f"{step}/{steps} loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    config = auto_cli(SFTConfig, as_positional=False)
    claim_run_folder(config.out, asdict(config), config.resume, config.overwrite)
    seed_everything(config.seed)   # of a fresh adapter and value head
    model, processor = load_vlm(resolve_model(config.model, config.task), lora=config.lora, parts=config.parts, dtype=config.dtype)
    result = train_sft(Conversations(f"{config.data}/train.parquet"), VLMPolicy(model, processor), config, f"{config.out}/sft", progress=show)
    print(result)
