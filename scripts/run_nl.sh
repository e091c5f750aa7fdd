#!/usr/bin/env bash
# NumberLine × LLaVA-1.6-Mistral-7B by PPO.
#
#   ./scripts/run_nl.sh                                        # everything as in the preset
#   PROCESSES=8 ./scripts/run_nl.sh --model runs/numberline_llava_sft/sft   # on eight GPUs
#
# Hardware: one GPU of 80 GB, or several (ZeRO-2); `rl4vlm ppo --config ... --dry-run` estimates.
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/numberline_llava.yaml "$@"
