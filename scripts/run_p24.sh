#!/usr/bin/env bash
# Points24 × LLaVA-1.6-Mistral-7B by PPO.
#
#   ./scripts/run_p24.sh                                        # everything as in the preset
#   PROCESSES=8 ./scripts/run_p24.sh --model runs/points24_llava_sft/sft   # on eight GPUs
#
# Hardware: one GPU of 80 GB, or several (ZeRO-2); `rl4vlm ppo --config ... --dry-run` estimates.
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/points24_llava.yaml "$@"
