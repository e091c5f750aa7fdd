#!/usr/bin/env bash
# PPO on several nodes under SLURM, with servers of vLLM on some of them: the first SERVERS nodes sample, one server on
# each group of GPUs, the others learn. Two minutes before the time limit it writes a checkpoint and puts itself into the
# queue again, as batch_vlm.sh does.
#
#   sbatch scripts/batch_engine.sh SERVERS RUN_FOLDER MODEL [options of rl4vlm ppo]
#   sbatch --nodes 8 scripts/batch_engine.sh 1 runs/served Qwen/Qwen2.5-VL-3B-Instruct --lora.r 16 --engine.max_staleness 1
#   TENSOR=2 sbatch --nodes 4 scripts/batch_engine.sh 1 runs/large Qwen/Qwen2.5-VL-32B-Instruct --lora.r 16
#
# SERVERS: nodes that sample; TENSOR: GPUs of one server (default 1); PER_NODE: GPUs of a node (default: what SLURM gives).
# Hardware: nodes with eight GPUs each and a disk that all of them see, on which RUN_FOLDER lies; other sizes by options
# of sbatch. Before it, once: rl4vlm engine install. Activate the environment with rl4vlm before you call sbatch. Whoever
# reaches a server can change its weights: the nodes must be in a network of your own.
#SBATCH --job-name=rl4vlm-engine
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -u
usage() { echo "usage: sbatch $0 SERVERS RUN_FOLDER MODEL [options of rl4vlm ppo]" >&2; exit 2; }
[ $# -ge 3 ] || usage
case $1 in ''|*[!0-9]*|0) usage ;; esac
serving=$1 run=$2 model=$3; shift 3
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}" || exit 2   # SLURM runs a copy of this file; call sbatch in the repository
[ -e scripts/node.sh ] || { echo "error: call sbatch in the root of the repository, not in $PWD" >&2; exit 2; }
case $run in /*) ;; *) run=$PWD/$run ;; esac   # servers look for new weights under it
if [ "$serving" -ge "$SLURM_JOB_NUM_NODES" ]; then
  echo "error: $serving of $SLURM_JOB_NUM_NODES nodes would sample and none learn; give fewer, or sbatch --nodes" >&2; exit 2
fi

PER_NODE=${PER_NODE:-${SLURM_GPUS_ON_NODE:-1}} TENSOR=${TENSOR:-1}
if [ $((PER_NODE % TENSOR)) != 0 ]; then echo "error: $PER_NODE GPUs of a node are no multiple of TENSOR=$TENSOR" >&2; exit 2; fi
mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
servers=("${names[@]:0:serving}") trainers=("${names[@]:serving}")
comma() { local IFS=,; echo "$*"; }

# what a server is started with depends on the adapter
adapter=() previous=""
for word in "$@"; do
  case $previous in --lora.r|--lora.parts) adapter+=("$previous" "$word") ;; esac
  case $word in --lora.r=*|--lora.parts=*) adapter+=("$word") ;; esac
  previous=$word
done

# the nodes that sample: a server on each TENSOR GPUs, at ports from FIRST
FIRST=$((20000 + SLURM_JOB_ID % 20000)) urls=()
for name in "${servers[@]}"; do
  for ((i = 0; i < PER_NODE / TENSOR; i++)); do urls+=("http://$name:$((FIRST + i))"); done
done
said=$(python -m rl4vlm.cli engine command --model "$model" --platform "${PLATFORM:-gpu}" "${adapter[@]}" --engine.options.host 0.0.0.0 \
  --engine.options.tensor_parallel_size "$TENSOR" --engine.environment.CUDA_VISIBLE_DEVICES "GPUS_OF_IT" ${ENGINE_COMMAND:+--engine.command "$ENGINE_COMMAND"}) || exit
line=${said##*$'\n'}   # before it may stand how far the command is
mkdir -p "$run/servers" || exit
cat > "$run/servers/start.sh" <<END
# made by batch_engine.sh: the servers of one node; one that ends is started again, twice (the run gives it its weights)
for ((i = 0; i < $PER_NODE / $TENSOR; i++)); do
  (
    export CUDA_VISIBLE_DEVICES=\$(seq -s, \$((i * $TENSOR)) \$((i * $TENSOR + $TENSOR - 1)))
    for try in 1 2 3; do
      ${line/CUDA_VISIBLE_DEVICES=GPUS_OF_IT/} --port \$(($FIRST + i))
    done > "$run/servers/\$(hostname)-\$i.log" 2>&1
  ) &
done
wait
END
srun --nodes "$serving" --ntasks "$serving" --nodelist "$(comma "${servers[@]}")" bash "$run/servers/start.sh" &
sampling=$!

# the nodes that learn; each waits until the last server answers
HEAD=${trainers[0]} PORT=$((FIRST + 100)) NODES=${#trainers[@]}
export HEAD PORT NODES PER_NODE
for url in "${urls[@]}"; do
  until curl -sf -m 5 "$url/health" > /dev/null; do
    kill -0 "$sampling" 2>/dev/null || { echo "error: the servers ended while they started, see $run/servers" >&2; exit 1; }
    sleep 5
  done
done
rm -f "$run/requeue"   # of an earlier part of this job
# node.sh wants its number among the nodes that learn; --resume begins a run where there is none
# shellcheck disable=SC2016
srun --nodes "$NODES" --ntasks "$NODES" --nodelist "$(comma "${trainers[@]}")" --kill-on-bad-exit=1 \
  bash -c 'NODE=$SLURM_PROCID exec bash scripts/node.sh "$@"' node ppo --model "$model" "$@" --engine.urls "${urls[@]}" --engine.folder "$run/engine" --out "$run" --resume true --overwrite false &
step=$!
trap 'kill -USR1 "$step"' USR1   # srun passes it on to node.sh on each node
while kill -0 "$step" 2>/dev/null; do wait "$step"; done   # `wait` also returns when the signal comes
wait "$step"; code=$?
kill "$sampling" 2>/dev/null

if [ -e "$run/requeue" ]; then echo "checkpoint written; back into the queue"; exec scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
