# Sourced by the run scripts: `launch COMMAND [options]` starts `rl4vlm COMMAND [options]` in one process or several.
#   PROCESSES=8   that many processes on this machine, one per GPU (default 1; without GPUs they share the CPU)
#   STAGE=zero3   how they share the work: a file of scripts/accelerate (default zero2), or ddp
#   PORT=29500    where they meet (default: any free port)
# An environment with rl4vlm in it is taken as it is; elsewhere one is made in .venv, which needs a network once.
# shellcheck shell=bash
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python -c "import rl4vlm" 2>/dev/null || setup_python ""

dry_run() { case " $* " in *" --dry-run "*) ;; *) return 1 ;; esac; }

launch() {   # exec: signals reach the launcher itself
  if [ "${PROCESSES:-1}" = 1 ]; then exec python -m rl4vlm.cli "$@"; fi
  if dry_run "$@"; then WORLD_SIZE="$PROCESSES" exec python -m rl4vlm.cli "$@"; fi   # one process tells about all
  if [ "${STAGE:-zero2}" = ddp ]; then
    exec python -m torch.distributed.run --nnodes 1 --nproc_per_node "$PROCESSES" --rdzv_backend c10d --rdzv_endpoint "127.0.0.1:${PORT:-0}" -m rl4vlm.cli "$@"
  fi
  exec python -m accelerate.commands.launch --config_file "scripts/accelerate/${STAGE:-zero2}.yaml" --num_processes "$PROCESSES" --main_process_port "${PORT:-0}" -m rl4vlm.cli "$@"
}
