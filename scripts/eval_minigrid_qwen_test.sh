#!/usr/bin/env bash
# MiniGrid-Empty-Random-6x6 with a tiny model: does everything run? --model runs/minigrid_test/sft plays what
# run_minigrid_sft_test.sh has left.
#
#   ./scripts/eval_minigrid_qwen_test.sh
#
# Hardware: two CPU cores, under two minutes (the first run also makes the tiny model, some minutes more).
. "$(dirname "$0")/launch.sh"
PROCESSES=1 launch eval --config scripts/configs/eval/minigrid_test.yaml --model tiny "$@"
