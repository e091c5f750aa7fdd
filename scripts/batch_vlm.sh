#!/usr/bin/env bash
# A run on several nodes under SLURM that survives its time limit: two minutes before, it writes a checkpoint and puts
# itself into the queue again, until it is done.
#
#   sbatch scripts/batch_vlm.sh RUN_FOLDER COMMAND [options]
#   sbatch --nodes 4 scripts/batch_vlm.sh runs/doorkey ppo --config scripts/configs/ppo/minigrid_doorkey_qwen25.yaml --rollout.envs 64
#
# Hardware: nodes with eight GPUs each and a disk that all of them see; other sizes by options of sbatch. Give your
# partition and account there too, and activate the environment with rl4vlm before you call sbatch.
#SBATCH --job-name=rl4vlm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -u
[ $# -ge 2 ] || { echo "usage: sbatch $0 RUN_FOLDER COMMAND [options]" >&2; exit 2; }
run=$1 command=$2; shift 2
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}" || exit 2   # SLURM runs a copy of this file; call sbatch in the repository
[ -e scripts/node.sh ] || { echo "error: call sbatch in the root of the repository, not in $PWD" >&2; exit 2; }

# where the nodes meet
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000))
NODES=$SLURM_JOB_NUM_NODES
PER_NODE=${SLURM_GPUS_ON_NODE:-1}
export HEAD PORT NODES PER_NODE

rm -f "$run/requeue"   # of an earlier part of this job
# --resume begins a run where there is none
srun --kill-on-bad-exit=1 bash scripts/node.sh "$command" "$@" --out "$run" --resume true --overwrite false &
step=$!
trap 'kill -USR1 "$step"' USR1   # srun passes it on to node.sh on each node
while kill -0 "$step" 2>/dev/null; do wait "$step"; done   # `wait` also returns when the signal comes
wait "$step"; code=$?

if [ -e "$run/requeue" ]; then echo "checkpoint written; back into the queue"; exec scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
