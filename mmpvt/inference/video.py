"""Prediction on videos and streams: a video with what was found drawn, and a line of JSON a frame.

PyAV rather than OpenCV, whose writer has no sound, says nothing of a codec that is missing, and
leaves a file without an index where it isn't closed. The video is written in fragments, so that it
can be played up to where even a killed process has come.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmpvt.engine.pipeline import MAX_PIXELS
from mmpvt.errors import BadFileError, OutputError, SetupError, UserError
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.inference.batches import instance_lines
from mmpvt.inference.detections import sample_to_detections
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.atomic import PART
from mmpvt.utils.constants import SCORE
from mmpvt.utils.files import check_regular
from mmpvt.utils.outputs import Outputs, fitting
from mmpvt.utils.progress import progress
from mmpvt.utils.text import encodable, printable, to_json

SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
SUFFIXES |= {".3gp", ".ogv", ".mts", ".m2ts"}
STREAM = re.compile(r"(rtsp|rtsps|rtmp|udp|rtp|srt|https?)://", re.IGNORECASE)
CAMERA = re.compile(r"(/dev/video)?(\d{1,2})")
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that FFmpeg has
MOST_BYTES = 2**40  # of a file
RATE = 25.0  # frames a second, where a stream doesn't say
FRAGMENTS = dict(movflags="frag_keyframe+empty_moov+default_base_moof")
SECONDS = 2.0  # of a fragment


@dataclass(frozen=True)
class VideoOptions:
    """How a video is predicted on.

    Attributes:
        score: instances below are neither drawn nor tracked. Default: 0.3.
        fps: frames a second to predict on, at most. Default: None, all.
        track: whether instances get an identity through the frames, by ByteTrack.
        draw: whether to write a video. Default: True.
        timeout: seconds without a frame after which a stream has stalled. Default: 10.
    """

    score: float = SCORE
    fps: float | None = None
    track: bool = False
    draw: bool = True
    timeout: float = 10.0


@dataclass
class VideoSummary:
    """Counts of a run, and the files that it wrote."""

    frames: int = 0
    instances: int | None = None  # over the score; None for label maps
    tracks: int | None = None
    video: Path | None = None
    lines: Path | None = None


def is_video(source: str) -> bool:
    """Whether a name is one of a video file, a stream or a camera (``0``, ``/dev/video0``)."""
    if STREAM.match(source):
        return True
    path = Path(source)
    return path.suffix.lower() in SUFFIXES or bool(CAMERA.fullmatch(source) and not path.is_file())


def predict_video(
    predictor: Predictor, source: str, out: Path, options: VideoOptions
) -> VideoSummary:
    """Predicts on the frames of a video, and writes a video and a line of JSON a frame.

    What is predicted by the time that something ends the run is written, and can be played.

    Args:
        predictor (Predictor): the model.
        source (str): a file, a stream's URL, or a camera.
        out (Path): the folder of results: a new or empty one, or one of an earlier run.
        options (VideoOptions): how.

    Returns:
        VideoSummary: counts, and the files.

    Raises:
        UserError: the video can't be read, is broken or of changing size, a stream stalls, a
            package isn't installed, or the folder can't be written to.
    """
    av = import_av()
    folder = Outputs(out)
    folder.check_folder()
    name = fitting(Path(source).stem if Path(source).suffix.lower() in SUFFIXES else "stream")
    files = {"lines": f"{name}.jsonl", "video": f"{name}.mp4"}
    folder.check(*files.values(), "categories.json")
    tracker = None
    summary = VideoSummary()
    with ExitStack() as closing:
        container, stream = _open(av, source, options.timeout, closing)
        rate = float(stream.average_rate or stream.guessed_rate or RATE)
        if options.fps:
            rate = min(rate, options.fps)
        if options.track:
            tracker = _Tracker(rate, options.score)
        categories = coco_categories(predictor.classes)
        ids = [category["id"] for category in categories]
        folder.write("categories.json", to_json(categories))
        parts = {kind: folder.folder / f"{file}{PART}" for kind, file in files.items()}
        writer = _Writer(av, parts["video"], rate, container) if options.draw else None
        try:
            with (
                parts["lines"].open("wb") as lines,
                progress(f"predicting on {name}", _count(stream, container, rate)) as advance,
            ):
                for time, frame in _frames(av, source, container, stream, options, writer):
                    line, picture = _predict(predictor, frame, options, tracker, summary, ids)
                    lines.write(
                        msgspec.json.encode(dict(frame=summary.frames, time=time, **line)) + b"\n"
                    )
                    lines.flush()
                    if writer:
                        writer.write(picture, time)
                    summary.frames += 1
                    advance(summary.frames)
                    came = monotonic()
        except OSError as error:
            if isinstance(error, av.error.FFmpegError) and error.errno != errno.ENOSPC:
                silent = monotonic() - came
                raise _broken(source, error, summary.frames, silent, options.timeout) from error
            raise OutputError(
                f"{error.filename or out} can't be written ({error.strerror})", where=out
            ) from error
        finally:
            if writer:
                writer.close()
            for kind, part in parts.items():
                if summary.frames and part.exists():
                    setattr(summary, kind, folder.adopt(files[kind], part))
                else:
                    part.unlink(missing_ok=True)
    if not summary.frames:
        raise BadFileError(f"{source} holds no frames", where=source)
    if tracker:
        summary.tracks = len(tracker.seen)
    return summary


def import_av() -> Any:
    """PyAV; a SetupError where it isn't installed."""
    if importlib.util.find_spec("av") is None:
        raise SetupError(
            "videos are read through PyAV, which isn't installed", hint="pip install 'mmpvt[video]'"
        )
    av = importlib.import_module("av")
    av.logging.set_level(av.logging.FATAL)
    return av


def _open(av: Any, source: str, timeout: float, closing: ExitStack) -> tuple[Any, Any]:
    """The container and its first video stream, which decodes in threads."""
    camera = CAMERA.fullmatch(source)
    options: dict[str, str] = {}
    opened, kind = source, None
    if STREAM.match(source):
        options = dict(rtsp_transport="tcp")
    elif camera and not Path(source).is_file():
        opened, kind = f"/dev/video{camera[2]}", "v4l2"
        if not Path(opened).exists():
            raise BadFileError(f"there is no camera {opened}", where=source)
    else:
        try:
            check_regular(source, MOST_BYTES)
        except FileNotFoundError as error:
            raise BadFileError(
                f"no video at {source}: there is no such file", where=source
            ) from error
        options = dict(protocol_whitelist="file")  # a playlist may name URLs
    limits, began = (timeout, timeout) if STREAM.match(source) else None, monotonic()
    try:
        container = closing.enter_context(
            av.open(opened, format=kind, options=options, timeout=limits)
        )
    except av.error.FFmpegError as error:
        said = f"{source} can't be read as a video: {error.strerror}"
        if limits and monotonic() - began >= timeout:  # which FFmpeg reports by several errors
            said = f"{source} gives no answer in {timeout:g} s"
        raise BadFileError(said, where=source) from error
    if not container.streams.video:
        raise BadFileError(f"{source} holds no video, but sound or data alone", where=source)
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise BadFileError(f"{source} takes a codec that FFmpeg here doesn't have", where=source)
    if context.width * context.height > MAX_PIXELS:
        raise BadFileError(
            f"{source} has frames of {context.width}x{context.height} pixels, which is too large",
            where=source,
        )
    stream.thread_type = "AUTO"
    return container, stream


def _count(stream: Any, container: Any, rate: float) -> int | None:
    if container.duration:
        return max(1, round(container.duration / 1e6 * rate))
    return stream.frames or None


def _frames(
    av: Any, source: str, container: Any, stream: Any, options: VideoOptions, writer: _Writer | None
) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds from the start, and the frame, BGR, turned as it is to be shown; sound goes to the
    writer."""
    wanted = [stream]
    if writer is not None and writer.sound is not None:
        wanted.append(container.streams.audio[0])
    shape, first, due, number = None, None, 0.0, 0
    for packet in container.demux(*wanted):
        if packet.stream.type == "audio":
            if writer is not None:
                writer.copy(packet)
            continue
        for frame in packet.decode():
            time = number / float(stream.average_rate or RATE) if frame.time is None else frame.time
            first = time if first is None else first
            time, number = time - first, number + 1
            if shape is not None and (frame.height, frame.width) != shape:
                raise BadFileError(
                    f"{source} changes its size after {time:.1f} s, from {shape[1]}x{shape[0]} to "
                    f"{frame.width}x{frame.height} pixels: what was predicted until then is kept",
                    where=source,
                )
            shape = (frame.height, frame.width)
            if options.fps and time + 1e-6 < due:
                continue
            due = max(due + 1 / options.fps, time) if options.fps else 0.0
            image = frame.to_ndarray(format="bgr24")
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield time, np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _predict(
    predictor: Predictor,
    frame: np.ndarray,
    options: VideoOptions,
    tracker: _Tracker | None,
    summary: VideoSummary,
    category_ids: list[int],
) -> tuple[dict, np.ndarray]:
    """A frame's line, and its picture, RGB."""
    sample = predictor(frame)
    assert isinstance(sample, BaseDataElement)
    line: dict[str, Any] = {}
    if "pred_instances" in sample:
        if tracker:
            tracker.update(sample)
        line["instances"] = found = instance_lines(sample, category_ids)
        tracks = sample.pred_instances.get("track_ids")
        for i, one in enumerate(found):
            if tracks is not None and tracks[i] >= 0:
                one["track_id"] = int(tracks[i])
        drawn = sum(one["score"] > options.score for one in found)
        summary.instances = (summary.instances or 0) + drawn
    elif "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data
        counts = torch.bincount(labels.flatten().long(), minlength=len(predictor.classes))
        shares = (counts / labels.numel()).tolist()
        line["classes"] = {
            encodable(name): share
            for name, share in zip(predictor.classes, shares, strict=False)
            if share
        }
    else:
        label = int(sample.pred_label)
        name = encodable(predictor.classes[label])
        line.update({"class": name, "score": float(sample.pred_score[label])})
    picture = predictor.draw(frame, sample, options.score) if options.draw else frame
    return line, picture


class _Tracker:
    """ByteTrack (Zhang et al., ECCV 2022), of the package trackers."""

    def __init__(self, rate: float, score: float) -> None:
        if importlib.util.find_spec("trackers") is None:
            raise SetupError(
                "tracks are ByteTrack's of the package trackers, which isn't installed",
                setting="track",
                hint="pip install 'mmpvt[video]'",
            )
        module: Any = importlib.import_module("trackers")
        self.tracker = module.ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=score,
            high_conf_det_threshold=score,
            minimum_consecutive_frames=1,
        )
        self.seen: set[int] = set()

    def update(self, sample: BaseDataElement) -> None:
        """Adds ``track_ids`` to a sample's instances, -1 where there is none."""
        instances = sample.pred_instances
        plain = sample.new()
        plain.pred_instances = InstanceData(
            **{key: instances[key] for key in ("bboxes", "scores", "labels")}
        )
        found = sample_to_detections(plain)
        found.data["index"] = np.arange(len(found))
        tracked = self.tracker.update(found)
        ids = torch.full((len(found),), -1)
        if len(tracked):
            ids[torch.as_tensor(tracked.data["index"])] = torch.as_tensor(tracked.tracker_id).long()
        instances.track_ids = ids
        self.seen.update(i for i in ids.tolist() if i >= 0)


class _Writer:
    """An MP4 file of pictures, with the sound of another container.

    Args:
        av (Any): PyAV.
        path (Path): the file.
        rate (float): frames a second.
        source (Any): the container whose sound is kept.

    Attributes:
        sound (Any): the stream that takes it, or None.
    """

    def __init__(self, av: Any, path: Path, rate: float, source: Any) -> None:
        self.av, self.path = av, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = av.open(str(path), "w", format="mp4", options=FRAGMENTS)
        name = next((name for name in ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise SetupError(f"FFmpeg here has none of the encoders {', '.join(ENCODERS)}")
        self.stream = self.file.add_stream(name, rate=Fraction(rate).limit_denominator(1001))
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, 90_000)
        self.stream.codec_context.gop_size = max(1, round(SECONDS * rate))
        self.stream.codec_context.max_b_frames = 0  # a fragment's times would begin later
        self.size: tuple[int, int] | None = None
        self.sound = None
        self.early: list = []  # sound before the first picture, whose size the header tells
        self.last = -1
        if source.streams.audio:
            try:
                self.sound = self.file.add_stream_from_template(source.streams.audio[0])
            except (ValueError, av.error.FFmpegError):  # MP4 has no such sound
                print("the sound is left out: MP4 doesn't hold its format", file=sys.stderr)

    def write(self, picture: np.ndarray, time: float) -> None:
        """Adds a picture, RGB, at a time in seconds."""
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        if self.size is None:
            self.stream.height, self.stream.width = self.size = picture.shape[:2]
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self.last = frame.pts = max(self.last + 1, round(time * 90_000))
        frame.time_base = self.stream.codec_context.time_base
        for packet in self.stream.encode(frame):
            self.file.mux(packet)
        early, self.early = self.early, []
        for sound in early:
            self.copy(sound)

    def copy(self, packet: Any) -> None:
        """Adds a packet of sound as it is."""
        if packet.dts is None:
            return
        if self.size is None:
            self.early.append(packet)
            return
        packet.stream = self.sound
        self.file.mux(packet)

    def close(self) -> None:
        """Ends the file; what is in it can be played."""
        with suppress(self.av.error.FFmpegError, OSError):  # of a full disk, which was said
            if self.size is not None:
                for packet in self.stream.encode():
                    self.file.mux(packet)
        with suppress(self.av.error.FFmpegError, OSError):
            self.file.close()


def _broken(source: str, error: OSError, frames: int, silent: float, timeout: float) -> UserError:
    """What ended a video, after so many seconds without a frame."""
    said = f"{source} is broken: {error.strerror}"
    if STREAM.match(source) and silent >= timeout:  # which FFmpeg reports by several errors
        said = f"{source} gives no frame for {timeout:g} s"
    kept = f": {frames} frames are predicted on and kept" if frames else ""
    return BadFileError(printable(said + kept), where=source)
