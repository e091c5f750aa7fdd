#!/usr/bin/env bash
# EZPoints × LLaVA-1.6-Mistral-7B by PPO.
#
#   ./scripts/run_ezp.sh                                        # everything as in the preset
#   PROCESSES=8 ./scripts/run_ezp.sh --model runs/ezpoints_llava_sft/sft   # on eight GPUs
#
# Hardware: one GPU of 80 GB, or several (ZeRO-2); `rl4vlm ppo --config ... --dry-run` estimates.
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/ezpoints_llava.yaml "$@"
