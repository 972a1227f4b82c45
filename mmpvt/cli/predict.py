"""Predicts on images with a detector, segmenter or classifier.

mmpvt predict retinanet_pvt_s_fpn_1x_coco published photos/ --out results/
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmpvt.engine.choices import AMP_DTYPES, LAUNCHERS
from mmpvt.engine.cli import (
    AMP,
    CHECKPOINT,
    CONFIG,
    DEVICE,
    FAILURE,
    add_tile_arguments,
    check_score,
    check_workers,
    user_errors,
)
from mmpvt.errors import UserError
from mmpvt.utils.constants import MAX_PIXELS, OPENCV_LIMIT, SCORE
from mmpvt.utils.text import counted, printable

if TYPE_CHECKING:
    from mmpvt.engine.launch import Share
    from mmpvt.inference.predictor import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=CONFIG)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("images", nargs="+", help="image files, and folders that hold some")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of results")
    parser.add_argument(
        "--score",
        type=float,
        default=SCORE,
        help="instances below are not drawn; predictions.json holds all (default: %(default)s)",
    )
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="images of one size, or tiles of an image, at a time, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: with a GPU one a processor, at most 8; else "
        "none)",
    )
    parser.add_argument(
        "--no-pictures", action="store_true", help="write predictions and label maps alone"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where a run into this folder was ended"
    )
    parser.add_argument(
        "--launcher",
        choices=[name for name in LAUNCHERS if name != "mpi"],
        default="none",
        help="what started several processes, which share the images (docs/predict.md)",
    )
    add_tile_arguments(parser)
    parser.add_argument("--amp", choices=AMP_DTYPES, help=AMP)
    group = parser.add_argument_group("videos, streams and cameras (docs/predict.md)")
    group.add_argument("--fps", type=float, metavar="N", help="frames a second, at most")
    group.add_argument("--seconds", type=float, metavar="S", help="predict on so many, at most")
    group.add_argument("--track", action="store_true", help="instances keep an identity")
    group.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds after which a stream without frames has stalled (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int | None:
    os.environ[OPENCV_LIMIT] = str(MAX_PIXELS)
    with user_errors("interrupted: what was predicted so far is written"):
        from mmpvt.engine.launch import share_of
        from mmpvt.engine.tiles import tiling_of
        from mmpvt.inference.folders import FolderOptions, check_out, predict_folder
        from mmpvt.inference.sources import find_sources
        from mmpvt.inference.video import is_video

        check_score(args.score)
        if args.batch < 1:
            raise UserError(f"--batch {args.batch}: at least one image at a time")
        check_workers(args.workers or 0)
        tiling_of(args.tiles, args.overlap, args.also_whole)  # checks them before folders are read
        out = Path(args.out)
        if any(map(is_video, args.images)):
            _predict_video(args, out)
            return None
        share = share_of(args.launcher)
        for flag, given in (
            ("--fps", args.fps is not None),
            ("--seconds", args.seconds is not None),
            ("--track", args.track),
        ):
            if given:
                raise UserError(f"{flag} is for a video, and {args.images[0]} is none")
        sources, others = find_sources(args.images, out)
        check_out(out)
        share.use_threads()
        predictor = _predictor(args, share)
        options = FolderOptions(
            args.score, args.batch, args.workers, not args.no_pictures, args.resume, share
        )
        summary = predict_folder(predictor, sources, out, options)
        nothing = not summary.images and not summary.resumed
        if summary.predicted == 0 or (nothing and share.count == 1):
            raise UserError(f"no image can be used, of {len(sources):,}")
        counts = [counted(summary.images, "image"), f"{len(summary.skipped):,} skipped"]
        if summary.instances is not None:
            counts.insert(1, f"{counted(summary.instances, 'instance')} over {args.score}")
        if summary.resumed:
            counts.append(f"{summary.resumed} done before")
        if others:
            counts.append(f"{counted(len(others), 'other file')} ignored ({others[0].name} …)")
        said = printable(f"{', '.join(counts)}: see {out}")
        if share.count == 1:
            print(said)
            return None
        print(f"process {share.index} of {share.count}: {said}", flush=True)
        if summary.missing:
            print(
                f"error: {summary.missing} of {len(sources)} images are missing, as a process has "
                "ended before it was done: the same command with --resume does them",
                file=sys.stderr,
            )
            return FAILURE
        if summary.awaited:
            left = f"{summary.awaited} of {len(sources)} images are left"
            print(f"{left} to processes that have yet to begin")
        if summary.predicted is not None:
            print(printable(f"all processes: {counted(summary.predicted, 'image')}: see {out}"))
        return None


def _predictor(args: argparse.Namespace, share: Share | None = None) -> Predictor:
    from mmpvt.inference.predictor import Predictor

    device = args.device
    if share and share.count > 1 and device in (None, "cuda"):
        device = share.device()
    predictor = Predictor(
        args.config,
        args.checkpoint,
        device,
        tiles=args.tiles,
        overlap=args.overlap,
        also_whole=args.also_whole,
        batch_size=args.batch,
        amp=args.amp,
    )
    predictor.check_results()
    return predictor


def _predict_video(args: argparse.Namespace, out: Path) -> None:
    from mmpvt.inference.folders import check_out
    from mmpvt.inference.video import VideoOptions, import_av, predict_video

    if args.launcher != "none":
        raise UserError(
            "--launcher is for images: a video is predicted on by one process, from start to end"
        )
    if len(args.images) > 1:
        raise UserError("a video is predicted on by itself: name one at a time")
    if args.resume:
        raise UserError("--resume is for images: a video is predicted on from its start")
    for flag, value in (
        ("--fps", args.fps),
        ("--seconds", args.seconds),
        ("--timeout", args.timeout),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{flag} {value}: a number greater than 0")
    import_av()
    check_out(out)
    predictor = _predictor(args)
    if args.track and not predictor.finds_instances:
        raise UserError("--track is for models that find instances")
    options = VideoOptions(
        args.score, args.fps, args.track, not args.no_pictures, args.timeout, args.seconds
    )
    summary = predict_video(predictor, args.images[0], out, options)
    counts = [counted(summary.frames, "frame")]
    if summary.instances is not None:
        counts.append(f"{counted(summary.instances, 'instance')} over {args.score}")
    if summary.tracks is not None:
        counts.append(counted(summary.tracks, "track"))
    if summary.damaged:
        counts.append(f"{counted(summary.damaged, 'damaged packet')} skipped")
    if summary.missing:
        counts.append(f"{summary.missing:.1f} s shorter than the file says")
    if summary.dropped:
        counts.append(f"{counted(summary.dropped, 'frame')} dropped while the model was busy")
    print(printable(f"{', '.join(counts)}: see {summary.video or summary.lines}"))
