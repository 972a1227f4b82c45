"""docs/deploy_families.md, from a sweep's records."""

from __future__ import annotations

from collections.abc import Sequence

_HEAD = """# Families that export

Written by `python tools/sweep_deploy.py`. Of each family of docs/swap_coverage.md a config, its
backbone swapped for PVT v2-B0, weights random but scaled so that scores vary, images within 224x160
pixels: exported for any runtime (`--runtime any`: standard ONNX operators alone), and compared with
PyTorch on {photos} photographs of `coco_mini` or `ade_mini`, on onnxruntime and on OpenVINO in
float32. Agreement is: every detection over a score of 0.05 within 0.5 pixels and a score of 0.001;
of label maps 99.9% of pixels. Of panoptic models the instances are exported, segmenters slide in
windows of 128 pixels, and few boxes go from part to part. "One size": exported with `--shape`, and
compared on images of that size. Where a family's first config can't be exported, up to three others
were tried.

MMDetection {mmdet}, MMSegmentation {mmseg}, onnxruntime {onnxruntime}, OpenVINO {openvino}.

{exported} of {families} families are exported; {agree} agree on both runtimes.
"""


def markdown(families: Sequence[dict], photos: int, versions: dict[str, str]) -> str:
    """The page.

    Args:
        families (Sequence[dict]): the last record of each.
        photos (int): how many photographs were compared on.
        versions (dict[str, str]): of packages.
    """
    exported = [record for record in families if record["verdict"] == "exported"]
    agree = [record for record in exported if _agrees(record)]
    numbers = dict(exported=len(exported), families=len(families), agree=len(agree))
    rows = [
        "| family | config | onnxruntime | OpenVINO |",
        "|---|---|---|---|",
        *(
            f"| {r['family']} | {_file(r)} | {_cell(r['onnxruntime'])} | {_cell(r['openvino'])} |"
            for r in exported
        ),
    ]
    others = [
        "| family | config | verdict | reason |",
        "|---|---|---|---|",
        *(
            f"| {r['family']} | {_file(r)} | {r['verdict']} | {r['reason'].replace('|', '/')} |"
            for r in families
            if r["verdict"] != "exported"
        ),
    ]
    head = _HEAD.format(photos=photos, **numbers, **versions)
    return "\n".join([head, "## Exported", "", *rows, "", "## Not exported", "", *others, ""])


def _agrees(record: dict) -> bool:
    return all(record[name].get("is_small") for name in ("onnxruntime", "openvino"))


def _file(record: dict) -> str:
    name = record["config"].rpartition("/")[2].removesuffix(".py")
    return f"{name} (one size)" if record.get("has_one_size") else name


def _cell(found: dict) -> str:
    if "error" in found:
        return f"fails: {found['error'][:120].replace('|', '/')}"
    missing = f"{found['unmatched']:.0f} of {found['compared']:.0f} {found['unit']}"
    if found["unit"] == "pixels":
        return f"{missing} differ"
    mask = f", masks {found['mask']:.2%}" if found["mask"] else ""
    added = f", {found['added']} added" if found.get("added") else ""
    return f"{missing} missing{added}; {found['box']:.4f} px, {found['score']:.1e}{mask}"
