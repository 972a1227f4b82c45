#!/usr/bin/env bash
# Trains on a SLURM cluster, eight GPUs of one machine unless told otherwise. From the checkout:
#   sbatch --partition=NAME tools/slurm_train.sh CONFIG [options of tools/train.py]
#   sbatch --nodes=2 --partition=NAME tools/slurm_train.sh CONFIG --auto-scale-lr
#   SRUN_ARGS="--partition=NAME" bash tools/slurm_train.sh CONFIG    # without a queued job
# sbatch's own options go before the script's name. Two minutes before its time is up, SLURM sends
# SIGTERM; the run saves what it has and --resume goes on from there.
#SBATCH --job-name=mmpvt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=6
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: sbatch [sbatch's options] tools/slurm_train.sh CONFIG [options of tools/train.py]" >&2
  exit 2
fi
tools=$(dirname "$0")
if [ ! -f "$tools/train.py" ]; then  # sbatch runs a copy of this file that lies elsewhere
  tools=${SLURM_SUBMIT_DIR:-.}/tools
fi
if [ ! -f "$tools/train.py" ]; then
  echo "error: no tools/train.py under ${SLURM_SUBMIT_DIR:-.}: call sbatch in the checkout" >&2
  exit 2
fi
if ! command -v srun >/dev/null; then
  echo "error: there is no srun: this is no SLURM cluster; use tools/dist_train.sh" >&2
  exit 2
fi
resources=()
if [ -z "${SLURM_JOB_ID:-}" ]; then
  resources=(--job-name=mmpvt --nodes=1 --ntasks-per-node=8 --gres=gpu:8 --cpus-per-task=6)
fi
read -ra extra <<<"${SRUN_ARGS:-}"
exec srun ${resources[@]+"${resources[@]}"} ${extra[@]+"${extra[@]}"} --kill-on-bad-exit=1 \
  "${PYTHON:-python}" -u "$tools/train.py" "$@" --launcher slurm
