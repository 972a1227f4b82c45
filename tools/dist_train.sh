#!/usr/bin/env bash
# Trains on several GPUs of one machine, or of several (NNODES, NODE_RANK, MASTER_ADDR, PORT):
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]" >&2
  exit 2
fi
config=$1 gpus=$2
shift 2
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
