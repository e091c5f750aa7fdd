#!/usr/bin/env bash
# NumberLine × a tiny model by PPO: does everything run? The other card games by --task Blackjack, EZPoints or Points24.
#
#   ./scripts/run_nl_test.sh
#   PROCESSES=2 ./scripts/run_nl_test.sh               # ZeRO-2; STAGE=zero3 and STAGE=ddp work too
#
# Hardware: two CPU cores, under two minutes (the first run also makes the tiny model, some minutes more).
. "$(dirname "$0")/launch.sh"
launch ppo --config scripts/configs/ppo/numberline_test.yaml "$@"
