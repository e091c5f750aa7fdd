#!/usr/bin/env bash
# PickImage × a tiny model, all stages with a few steps each: does everything run? Without these options the preset
# learns, in some minutes.
#
#   ./scripts/run_pick_image_test.sh
#
# Hardware: two CPU cores, under two minutes (the first run also makes the tiny model, some minutes more).
. "$(dirname "$0")/launch.sh"
launch pipeline --config scripts/configs/pipeline/pick_image_test.yaml --overwrite --out runs/pick_image_test --collect.episodes 40 --sft.steps 4 --sft.optim.batch_size 4 \
  --ppo.updates 1 --ppo.rollout.envs 4 --ppo.optim.minibatch 4 --ppo.sampling.max_new_tokens 8 --eval.panel val-50 --eval.sampling.max_new_tokens 8 "$@"
