#!/usr/bin/env bash
# MiniGrid-DoorKey-6x6 × Qwen2.5-VL-3B by PPO, into the run folder OUT/RUN.
#
#   ./scripts/run_minigrid_qwen.sh SEED RUN OUT PORT [options]
#   PROCESSES=8 ./scripts/run_minigrid_qwen.sh 1 my_run runs 29488 --model runs/minigrid_qwen25_sft/sft
#   ./scripts/run_minigrid_qwen.sh 1 empty runs 29488 --config scripts/configs/ppo/minigrid_empty_qwen25.yaml
#
# Hardware: one GPU of 40 GB, or several (ZeRO-2); `rl4vlm ppo --config ... --dry-run` estimates.
[ $# -ge 4 ] || { echo "usage: $0 SEED RUN OUT PORT [options of rl4vlm ppo]" >&2; exit 2; }
seed=$1 out=$3/$2; export PORT=$4; shift 4
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/minigrid_doorkey_qwen25.yaml "$@" --seed "$seed" --out "$out"
