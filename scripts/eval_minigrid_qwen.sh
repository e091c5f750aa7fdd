#!/usr/bin/env bash
# MiniGrid-DoorKey-6x6 with Qwen2.5-VL-3B after PPO on 200 episodes, into the run folder OUT/RUN.
#
#   ./scripts/eval_minigrid_qwen.sh SEED RUN OUT PORT [options]
#   ./scripts/eval_minigrid_qwen.sh 1 eval_run runs 29488 --model runs/my_run/ppo/best
#
# Hardware: one GPU of 24 GB. Evaluation is one process, which needs no port; it is taken so that the line is that of
# run_minigrid_qwen.sh.
[ $# -ge 4 ] || { echo "usage: $0 SEED RUN OUT PORT [options of rl4vlm eval]" >&2; exit 2; }
seed=$1 out=$3/$2; shift 4
. "$(dirname "$0")/launch.sh"
PROCESSES=1 launch eval --config scripts/configs/eval/minigrid_qwen25.yaml "$@" --seed "$seed" --out "$out"
