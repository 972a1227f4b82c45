# Where the processes meet, for dist_train.sh and dist_test.sh, which source it: sets `torchrun`.
# One machine (the default), or NNODES machines that each run the same command with
#   NNODES       how many, such as 2; or 1:4 for as many as come, up to 4
#   MASTER_ADDR  name or address of one of them, the same on all
#   PORT         a free port there (default: 29500)
#   RDZV_ID      the run's name, where several share that port (default: mmpvt)
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
  echo "error: GPUS is the number of this machine's GPUs to use, not $gpus" >&2
  exit 2
fi
torchrun=("${PYTHON:-python}" -m torch.distributed.run --nproc_per_node="$gpus")
if [ "${NNODES:-1}" = 1 ]; then
  torchrun+=(--nnodes=1 --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
elif [ -z "${MASTER_ADDR:-}" ]; then
  echo "error: NNODES=$NNODES needs MASTER_ADDR, the name of one of the machines, on all of them" >&2
  exit 2
else
  torchrun+=(
    --nnodes="$NNODES" --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:${PORT:-29500}"
    --rdzv_id="${RDZV_ID:-mmpvt}"
  )
fi
