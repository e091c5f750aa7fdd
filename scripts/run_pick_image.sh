#!/usr/bin/env bash
# PickImage × Qwen2.5-VL-32B by RLOO.
#
#   PROCESSES=8 STAGE=zero3 ./scripts/run_pick_image.sh
#
# Hardware: eight GPUs of 80 GB with ZeRO-3 (estimated); with --lora.r 64, or a smaller --model, one.
. "$(dirname "$0")/launch.sh"
launch trl-rloo --config scripts/configs/trl-rloo/fleet_qwen25.yaml "$@"
