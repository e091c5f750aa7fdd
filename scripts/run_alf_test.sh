#!/usr/bin/env bash
# ALFWorld × a tiny model by PPO: does everything run?
#
#   ./scripts/run_alf_test.sh
#
# Hardware: two CPU cores, under two minutes (the first run also makes the tiny model, some minutes more).
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/alfworld_test.yaml "$@"
