"""Converts a checkpoint to another project's tensor names: a backbone, a classifier, a detector.

mmpvt convert-checkpoint pvt_v2_b2.pth pvt_v2_b2.safetensors --to huggingface
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpvt.engine.cli import user_errors
from mmpvt.errors import CheckpointError, OutputError
from mmpvt.utils.constants import CHECKPOINT_SUFFIXES, LAYOUTS
from mmpvt.utils.outputs import check_free
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="file or URL, in any known layout")
    parser.add_argument(
        "out", metavar="OUT", help=f"file to write: {', '.join(CHECKPOINT_SUFFIXES)}"
    )
    parser.add_argument("--to", required=True, choices=LAYOUTS, help="whose names the tensors get")
    parser.add_argument(
        "--backbone-only", action="store_true", help="leave out the rest of a detector"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> None:
    with user_errors():
        from mmpvt.checkpoint import load_checkpoint
        from mmpvt.checkpoint.convert_checkpoint import convert_checkpoint, save_checkpoint

        out = free_path(args.out, args.force)
        checkpoint = load_checkpoint(args.source)
        try:
            done = convert_checkpoint(checkpoint, args.to, args.backbone_only)
        except CheckpointError as error:
            raise CheckpointError(
                f"{args.source} can't be converted: {error}", where=args.source
            ) from error
        save_checkpoint(done, out)
        print(printable(f"{args.source}: {done.kind}, in {done.layout} layout"))
        keeps_meta = done.meta is not None and out.suffix != ".safetensors"
        dropped = [*done.dropped, *other_content(checkpoint, keeps_meta)]
        for what, names in (("left out", dropped), ("added", done.added)):
            if names:
                print(printable(f"{what}: {', '.join(names)}"))
        print(printable(f"wrote {out}: {len(done.tensors)} tensors, as {args.to} names them"))


def other_content(checkpoint: dict, keeps_meta: bool) -> list[str]:
    """What a training run's file holds beside its weights, and the new one doesn't."""
    from mmpvt.checkpoint import unwrap
    from mmpvt.checkpoint.conversion import WRAPPERS

    if unwrap(checkpoint) is checkpoint:
        return []
    kept = (*WRAPPERS, "meta") if keeps_meta else WRAPPERS
    return [str(key) for key in checkpoint if key not in kept]


def free_path(path: str, force: bool) -> Path:
    """Refuses the path of a file to write where something would be lost by it."""
    out = Path(path)
    if out.suffix not in CHECKPOINT_SUFFIXES:
        raise OutputError(
            f"{out}: a checkpoint's name ends in {', '.join(CHECKPOINT_SUFFIXES)}", where=out
        )
    return check_free(out, force)
