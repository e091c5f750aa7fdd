#!/usr/bin/env bash
# MiniGrid-DoorKey-6x6 × Qwen2.5-VL-3B: examples of the oracle, then fine-tuning on them into the run folder OUT.
#
#   ./scripts/run_minigrid_sft.sh OUT [options of `rl4vlm sft`]
#   PROCESSES=8 STAGE=sft ./scripts/run_minigrid_sft.sh runs/minigrid_qwen25_sft --optim.batch_size 8 --optim.accumulate 16
#
# Hardware: one GPU of 40 GB, or several (STAGE=sft is ZeRO-2 with scripts/accelerate/ds_config.json); the examples
# are made on the CPU in some minutes, once.
[ $# -ge 1 ] || { echo "usage: $0 OUT [options of rl4vlm sft]" >&2; exit 2; }
out=$1; shift
. "$(dirname "$0")/launch.sh"
if ! dry_run "$@" && [ ! -e runs/minigrid_data/data/train.parquet ]; then
  python -m rl4vlm.cli collect --config scripts/configs/collect/minigrid.yaml --overwrite
  python -m rl4vlm.cli preprocess --config scripts/configs/preprocess/minigrid.yaml
fi
launch sft --config scripts/configs/sft/minigrid_qwen25.yaml "$@" --out "$out"
