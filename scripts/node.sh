#!/usr/bin/env bash
# One node of several: starts its processes, which meet those of the other nodes. batch_vlm.sh runs it on each node;
# by hand, on every node with its own NODE (both on one machine if you like):
#
#   NODES=2 NODE=0 HEAD=127.0.0.1 PORT=29511 ./scripts/node.sh ppo --config scripts/configs/ppo/numberline_test.yaml
#   NODES=2 NODE=1 HEAD=127.0.0.1 PORT=29511 ./scripts/node.sh ppo --config scripts/configs/ppo/numberline_test.yaml
#
# NODES: how many; NODE: which one this is, from 0; HEAD and PORT: where node 0 can be reached; PER_NODE: processes on
# each node (default 1), one per GPU. The run folder must lie on a disk that all nodes share.
node="${NODE:-${SLURM_NODEID:?give NODE, NODES, HEAD and PORT}}"
. "$(dirname "$0")/launch.sh"
# SLURM signals this script and not what it starts, so USR1 is passed on. The launcher and helpers ignore it, the
# processes that learn write a checkpoint and stop.
(
  trap '' USR1
  exec python -m accelerate.commands.launch --config_file scripts/accelerate/multinode.yaml --num_machines "$NODES" --machine_rank "$node" \
    --main_process_ip "$HEAD" --main_process_port "$PORT" --num_processes "$((NODES * ${PER_NODE:-1}))" -m rl4vlm.cli "$@"
) &
launcher=$!
started_by() { local p; for p in $(pgrep -P "$1"); do echo "$p"; started_by "$p"; done; }
trap 'for p in $(started_by "$launcher"); do kill -USR1 "$p" 2>/dev/null; done' USR1
trap 'kill -TERM "$launcher"' TERM INT
set +e
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done
wait "$launcher"
