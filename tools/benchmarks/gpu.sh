#!/usr/bin/env bash
# Measures mmpvt and its peers on a GPU.
#
#   tools/benchmarks/gpu.sh OUT [COCO]
#
# OUT gets table.md, the figures as JSON, and a log. COCO is a folder of COCO or of a part of it
# (annotations/instances_train2017.json, train2017/): RetinaNet with PVT v2 B0 trains on it for 2,000
# iterations from random weights, and box AP is that on the images it learned.
#
# Environment: PYTHON (default: python); DEVICE=cpu QUICK=1 takes the same steps with tiny models
# and images, to see that they run.
set -uo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: tools/benchmarks/gpu.sh OUT [COCO]" >&2
  exit 2
fi
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
coco=""
if [ $# = 2 ]; then
  coco=$(cd "$2" && pwd) || exit 2
fi
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-python} device=${DEVICE:-cuda} quick=${QUICK:-}
table=$out/table.md log=$out/log.txt
: >"$table"
: >"$log"
failed=0

v1="--arch small" v2="--arch b2" versions="--arch small b2" detectors="--arch tiny b2"
size="--sizes 800x1216" batch="--batch 2" batches="--batch 1 16" sizes="--sizes 64x96 1600x2666"
v1_peers="published mmdet" v2_peers="published mmdet transformers timm" others="transformers timm"
training="with_cp no_mlp_cp" graph=cuda_graph detector_peers="published nchw_maps resnet50"
runs=3 epochs=0 scale="(640,400)" interval=50 # iterations between two lines of the log
if [ -n "$quick" ]; then
  v1="--arch tiny" v2="--arch b0" versions="--arch tiny b0" detectors=$versions
  size="--sizes 64x96" sizes="--sizes 64x96" batches=$batch training="" graph=""
  v1_peers=published v2_peers=published others=published detector_peers=published
  runs=1 epochs=1 scale="(96,64)" interval=1
fi
common="--device $device --runs $runs" cast="--precision bfloat16"
forward="--work forward" backward="--work forward+backward" both="$forward forward+backward"

bench() { # NAME OPTION…: benchmarks, whose tables are added
  local name=$1 started=$SECONDS
  shift
  "$python" tools/benchmark.py --out "$out/$name.json" "$@" 2>>"$log" >>"$table" ||
    fail "$name: $(tail -n 1 "$log")"
  echo "$name: $((SECONDS - started)) s" | tee -a "$log"
}

fail() { # what went wrong
  echo "failed: $1" | tee -a "$table" >&2
  failed=1
}

train() { # 2,000 iterations in bfloat16; its loss and AP go into the table
  local started=$SECONDS annotations=annotations/instances_train2017.json images
  images=$("$python" -c "import json, sys; print(len(json.load(open(sys.argv[1]))['images']))" \
    "$coco/$annotations") || return
  [ "$epochs" = 0 ] && epochs=$(((2000 * 4 + images - 1) / images))
  local dataset="ann_file=$annotations" prefix="data_prefix.img=train2017/"
  local precision=(--amp bfloat16)
  [ "$device" = cpu ] && precision=()
  "$python" tools/train.py configs/retinanet_pvt_v2_b0_fpn_1x_coco.py --pretrained none --seed 0 \
    --data-root "$coco" --work-dir "$out/training" --epochs "$epochs" "${precision[@]}" \
    --cfg-options train_dataloader.batch_size=4 train_dataloader.num_workers="$(nproc)" \
    "val_dataloader.dataset.$dataset" "val_dataloader.dataset.$prefix" \
    "val_evaluator.ann_file=$coco/$annotations" "train_cfg.val_interval=$epochs" \
    "default_hooks.logger.interval=$interval" "default_hooks.checkpoint.interval=$epochs" \
    "train_dataloader.dataset.pipeline.2.scale=$scale" \
    "val_dataloader.dataset.pipeline.1.scale=$scale" >>"$log" 2>&1 || return
  "$python" - "$out" "$images" "$epochs" "$((SECONDS - started))" >>"$table" <<'END'
import json, statistics, sys
from pathlib import Path

out, images, epochs, seconds = Path(sys.argv[1]), *sys.argv[2:]
scalars = next((out / "training").glob("*/vis_data/scalars.json")).read_text().splitlines()
records = [json.loads(line) for line in scalars]
steps = [r for r in records if "loss" in r]
ap = next((f"{r['coco/bbox_mAP']:.3f}" for r in records if "coco/bbox_mAP" in r), "none")
time = statistics.median(r["time"] for r in steps)
data = statistics.median(r["data_time"] for r in steps)
print(f"""
### RetinaNet, PVT v2 B0, batch 4, {images} images, {epochs} epochs

{steps[-1]["step"]} iterations, {seconds} s with start and evaluation; {time:.3f} s an iteration (median), of which
{data:.3f} s wait for data. Loss {steps[0]["loss"]:.3f} at first, {steps[-1]["loss"]:.3f} at last; box AP on the images learned: {ap}.
""")
END
}
# shellcheck disable=SC2086  # lists of words
{
  bench tables $common $v1 $forward $cast $size $batch --peers $v1_peers $graph \
    --then $common $v1 $backward $cast $size $batch --peers $v1_peers $training $graph \
    --then $common $v2 $forward $cast $size $batch --peers $v2_peers $graph \
    --then $common $v2 $backward $cast $size $batch --peers $v2_peers $training $graph \
    --then $common $versions $backward $size $batch --peers $v2_peers \
    --then $common $versions $both $cast $size $batches --peers $v2_peers \
    --then $common $v2 $both $cast $sizes --peers $others \
    --then $common $detectors --work train predict $cast $size $batch --peers $detector_peers
  # which CPUs compile slowly
  [ -n "$quick" ] || bench compiled $common $v1 $backward $cast $size $batch \
    --peers published compiled compiled_blocks
  [ -z "$coco" ] || train || fail "training: $(tail -n 1 "$log")"
}
cat "$table"
exit "$failed"
