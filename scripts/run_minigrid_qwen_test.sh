#!/usr/bin/env bash
# MiniGrid-Empty-Random-6x6 × a tiny model by PPO: does everything run?
#
#   ./scripts/run_minigrid_qwen_test.sh
#
# Hardware: two CPU cores, under two minutes (the first run also makes the tiny model, some minutes more).
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/minigrid_empty_test.yaml "$@"
