#!/usr/bin/env bash
# Trains on several GPUs of one machine, or of several (NNODES, MASTER_ADDR, PORT: rendezvous.sh):
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]" >&2
  exit 2
fi
config=$1 gpus=$2
shift 2
tools=$(dirname "$0")
source "$tools/rendezvous.sh"
exec "${torchrun[@]}" "$tools/train.py" "$config" --launcher pytorch "$@"
