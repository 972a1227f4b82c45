#!/usr/bin/env bash
# Tests on several GPUs of one machine, or of several (NNODES, MASTER_ADDR, PORT: rendezvous.sh):
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
  exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3
tools=$(dirname "$0")
source "$tools/rendezvous.sh"
exec "${torchrun[@]}" "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
