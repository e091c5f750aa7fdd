#!/usr/bin/env bash
# NumberLine × Qwen2-VL-2B by PPO.
#
#   ./scripts/run_nl_qwen.sh                                        # everything as in the preset
#   PROCESSES=8 ./scripts/run_nl_qwen.sh --model runs/numberline_qwen2_sft/sft   # on eight GPUs
#
# Hardware: one GPU of 24 GB, or several (ZeRO-2); `rl4vlm ppo --config ... --dry-run` estimates.
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/numberline_qwen2.yaml "$@"
