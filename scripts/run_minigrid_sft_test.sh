#!/usr/bin/env bash
# MiniGrid-Empty-Random-6x6 × a tiny model: examples, then fine-tuning. Does everything run?
#
#   ./scripts/run_minigrid_sft_test.sh
#
# Hardware: two CPU cores, under two minutes (the first run also makes the tiny model, some minutes more).
. "$(dirname "$0")/launch.sh"
python -m rl4vlm.cli collect --config scripts/configs/collect/minigrid_test.yaml
python -m rl4vlm.cli preprocess --config scripts/configs/preprocess/minigrid_test.yaml
launch sft --config scripts/configs/sft/minigrid_test.yaml "$@"
