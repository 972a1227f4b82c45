"""Prediction on videos and streams: a video with what was found drawn, and a line of JSON a frame.

PyAV rather than OpenCV, whose writer has no sound, says nothing of a codec that is missing, and
leaves a file without an index where it isn't closed. The video is written in fragments, so that it
can be played up to where even a killed process has come.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import itertools
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Condition, Thread
from time import monotonic
from typing import Any

import msgspec
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmpvt.errors import BadFileError, OutputError, SetupError, UserError
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.inference.batches import classification, instance_lines
from mmpvt.inference.detections import sample_to_detections
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.atomic import PART
from mmpvt.utils.constants import MAX_PIXELS, SCORE
from mmpvt.utils.files import check_regular
from mmpvt.utils.outputs import Outputs, fitting, is_result
from mmpvt.utils.progress import progress
from mmpvt.utils.text import class_name, counted, encodable, printable, to_json

SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
SUFFIXES |= {".3gp", ".ogv", ".mts", ".m2ts"}
STREAM = re.compile(r"(?:(rtsps?|rtmp|udp|rtp|srt)|https?)://", re.IGNORECASE)  # group 1 is live
MJPEG = "mpjpeg"  # FFmpeg's name for what cameras send over HTTP: images without times
CAMERA = re.compile(r"(/dev/video)?(\d{1,2})")
# Of files: a playlist, whatever its name, would have other files and URLs read.
FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,m4v,h264,hevc"
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that FFmpeg has
MOST_BYTES = 2**40  # of a file
DURATION = re.compile(r"(\d{1,4}):(\d\d):(\d\d\.?\d*)")  # Matroska's tag of a stream
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # where a result can't be written
RATE = 25.0  # frames a second, where a stream doesn't say
FRAGMENTS = dict(movflags="frag_keyframe+delay_moov+default_base_moof", flush_packets="1")
SECONDS = 2.0  # of a fragment
COMPLETE = 0.9  # share of its length: a video that ends before may be truncated
LOW = 0.1  # of a score: what is found with less continues no track, as in ByteTrack's paper
GAP = 0.5  # seconds: a longer one between frames counts as this, as tracks end after one second
AHEAD = 2  # frames of a file that are decoded while the model runs


@dataclass(frozen=True)
class VideoOptions:
    """How a video is predicted on.

    Attributes:
        score: instances below are neither drawn nor tracked. Default: 0.3.
        fps: frames a second to predict on, at most. Default: None, all.
        track: whether instances get an identity through the frames, by ByteTrack.
        draw: whether to write a video. Default: True.
        timeout: seconds without a frame after which a stream has stalled. Default: 10.
        seconds: to predict on, at most. Default: None, all.
        max_pixels: a video with larger frames is refused. Default: 179 million.
    """

    score: float = SCORE
    fps: float | None = None
    track: bool = False
    draw: bool = True
    timeout: float = 10.0
    seconds: float | None = None
    max_pixels: int = MAX_PIXELS


@dataclass
class VideoSummary:
    """Counts of a run, and the files that it wrote."""

    frames: int = 0
    dropped: int = 0  # frames of a live source that came while the model was busy
    damaged: int = 0  # packets that can't be decoded
    seconds: float = 0.0  # from the first frame to the last one's end
    missing: float = 0.0  # seconds that a file says it has beyond these
    instances: int | None = None  # over the score; None for label maps
    tracks: int | None = None
    video: Path | None = None
    lines: Path | None = None


def is_video(source: str) -> bool:
    """Whether a name is one of a video file, a stream or a camera (``0``, ``/dev/video0``)."""
    if STREAM.match(source):
        return True
    path = Path(source)
    if path.is_dir():  # of images: of a class or sequence that is a number, or of a video's frames
        return False
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
    stem = Path(source).stem if Path(source).suffix.lower() in SUFFIXES else "stream"
    name = fitting(stem, suffix=f".jsonl{PART}")
    files = {"lines": f"{name}.jsonl", "video": f"{name}.mp4"}
    folder.check(*files.values(), "categories.json")
    tracker = None
    summary = VideoSummary()
    with ExitStack() as closing:
        container, stream = _open(av, source, options, closing)
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
        sound = writer is not None and writer.sound is not None
        items = _frames(av, source, container, stream, options, sound, summary)
        reader = closing.enter_context(_Reader(items, _is_live(source, container)))
        seconds = _seconds(container, stream, options)
        try:
            with (
                parts["lines"].open("wb") as lines,
                progress(
                    f"predicting on {name}",
                    max(1, round(seconds * rate)) if seconds else stream.frames or None,
                ) as advance,
            ):
                for item in reader:
                    if not isinstance(item, _Frame):
                        assert writer is not None
                        writer.copy(item)
                        continue
                    line, picture = _predict(
                        predictor, item.image, item.time, options, tracker, summary, ids
                    )
                    line = dict(frame=summary.frames, time=item.time, **line)
                    lines.write(msgspec.json.encode(line) + b"\n")
                    lines.flush()
                    if writer:
                        writer.write(picture, item)
                    summary.frames += 1
                    advance(summary.frames)
            if writer:
                writer.close()
            if seconds and summary.seconds < COMPLETE * seconds:
                summary.missing = seconds - summary.seconds
        except (OSError, av.error.FFmpegError) as error:  # of which not all are the former
            if isinstance(error, av.error.FFmpegError) and error.errno not in FULL:
                stalled = isinstance(error, av.error.ExitError)  # PyAV's timeout, mostly
                stalled |= monotonic() - reader.came >= options.timeout
                timeout = options.timeout if stalled else None
                raise _broken(source, error, summary.frames, timeout) from error
            raise OutputError(
                f"{error.filename or out} can't be written ({error.strerror})", where=out
            ) from error
        finally:
            summary.dropped = reader.dropped
            if writer:
                with suppress(OSError, av.error.FFmpegError):  # which came before was said
                    writer.close()
            for kind, part in parts.items():
                if summary.frames and part.exists():
                    setattr(summary, kind, folder.adopt(files[kind], part))
                else:
                    part.unlink(missing_ok=True)
    if not summary.frames:
        damaged = " that can be decoded" if summary.damaged else ""
        raise BadFileError(f"{source} holds no frames{damaged}", where=source)
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


def _open(av: Any, source: str, how: VideoOptions, closing: ExitStack) -> tuple[Any, Any]:
    """The container and its first video stream, which decodes in threads."""
    camera = CAMERA.fullmatch(source)
    options: dict[str, str] = {}
    opened, kind = source, None
    if STREAM.match(source):
        options = dict(rtsp_flags="prefer_tcp")  # UDP loses packets
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
        if is_result(Path(source), {}):
            raise BadFileError(f"{source} is the result of an earlier run", where=source)
        options = dict(protocol_whitelist="file", format_whitelist=FORMATS)
    limits, began = (how.timeout, how.timeout) if STREAM.match(source) else None, monotonic()
    try:
        container = closing.enter_context(
            av.open(opened, format=kind, options=options, timeout=limits)
        )
    except av.error.FFmpegError as error:
        said = f"{source} can't be read as a video: {error.strerror}"
        if limits and monotonic() - began >= how.timeout:  # which FFmpeg reports by several errors
            said = f"{source} gives no answer in {how.timeout:g} s"
        raise BadFileError(said, where=source) from error
    if not container.streams.video:
        raise BadFileError(f"{source} holds no video, but sound or data alone", where=source)
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise BadFileError(f"{source} takes a codec that FFmpeg here doesn't have", where=source)
    if context.width * context.height > how.max_pixels:
        raise BadFileError(
            f"{source} has frames of {context.width}x{context.height} pixels, which is too large",
            where=source,
        )
    live = _is_live(source, container)
    stream.thread_type = "SLICE" if live else "AUTO"  # which holds frames back
    return container, stream


def _seconds(container: Any, stream: Any, options: VideoOptions) -> float | None:
    """What there is to predict on, where the file says so; its sound may be longer."""
    tag = DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif tag or container.duration:  # which count from 0, not from the first frame
        hours, minutes, rest = tag.groups() if tag else (0, 0, container.duration / 1e6)
        seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest)
        start = float((stream.start_time or 0) * stream.time_base)
        seconds -= start if start < seconds else 0
    else:
        return None
    return min(seconds, options.seconds or seconds)


@dataclass(frozen=True)
class _Frame:
    start: float  # seconds: the first one's time in the source
    time: float  # seconds from then on
    image: np.ndarray  # BGR, turned as it is to be shown
    aspect: Fraction | None = None  # width of a pixel by its height, where the source says so


def _frames(
    av: Any,
    source: str,
    container: Any,
    stream: Any,
    options: VideoOptions,
    sound: bool,
    summary: VideoSummary,
) -> Iterator[Any]:
    """Frames, and in between the packets of the first sound, where that is wanted."""
    wanted = [stream, container.streams.audio[0]] if sound else [stream]
    shape, first, due, number = None, None, 0.0, 0
    frame_length = 1 / float(stream.average_rate or RATE)
    is_untimed = container.format.name == MJPEG  # FFmpeg takes 25 frames a second then
    packets = container.demux(*wanted)
    if container.format.name.endswith(("_pipe", "image2")):  # FFmpeg's for images, and MJPEG
        begin = [packet for packet in itertools.islice(packets, 2) if packet.size]
        if len(begin) < 2:
            raise BadFileError(
                f"{source} is an image, not a video",
                where=source,
                hint="download it and name the file",
            )
        packets = itertools.chain(begin, packets)
    for packet in packets:
        if packet.stream.type == "audio":
            yield packet
            continue
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:  # as where a network lost a part of it
            summary.damaged += 1
            continue
        for frame in decoded:
            time = number * frame_length if frame.time is None else frame.time
            time = monotonic() if is_untimed else time
            first = time if first is None else first
            time, number = time - first, number + 1
            length = float(frame.duration * frame.time_base) if frame.duration else frame_length
            summary.seconds = time + length
            if options.seconds and time >= options.seconds:
                return
            if shape is not None and (frame.height, frame.width) != shape:
                raise BadFileError(
                    f"{source} changes its size after {time:.1f} s, from {shape[1]}x{shape[0]} to "
                    f"{frame.width}x{frame.height} pixels: what was predicted until then is kept",
                    where=source,
                )
            shape = (frame.height, frame.width)
            if options.fps:
                slack = 0.1 / options.fps  # containers round times, cameras vary them
                if time + slack < due:
                    continue
                # the next multiple: a source of changing rate skips some
                due += (int((time - due + slack) * options.fps) + 1) / options.fps
            image = frame.to_ndarray(format="bgr24")
            aspect = stream.sample_aspect_ratio
            if matrix := frame.side_data.get("DISPLAYMATRIX"):
                image, on_its_side = _turned(image, np.frombuffer(bytes(matrix), np.int32))
                aspect = 1 / aspect if aspect and on_its_side else aspect
            yield _Frame(first, time, image, aspect)


def _turned(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """An image turned and mirrored by a display matrix, and whether its sides are swapped."""
    (across, down), (beside, below) = matrix.reshape(3, 3)[:2, :2].tolist()  # where x, y go to
    swapped = abs(down) > abs(across)
    if swapped:
        image, across, below = image.swapaxes(0, 1), beside, down
    image = image[:: -1 if below < 0 else 1, :: -1 if across < 0 else 1]
    return np.ascontiguousarray(image), swapped


def _is_live(source: str, container: Any) -> bool:
    """Whether frames come at their own pace: of a stream that isn't a file's, or a camera."""
    stream = STREAM.match(source)
    if stream:
        return bool(stream[1]) or container.format.name == MJPEG
    return bool(CAMERA.fullmatch(source)) and not Path(source).is_file()


class _Reader:
    """Decodes in a thread while the model runs.

    Of a live source, the newest frame alone waits for the model: others would be late, and fill
    the memory or the sender's buffer.

    Args:
        items (Iterator[Any]): of :func:`_frames`.
        live (bool): whether the source is live.

    Attributes:
        came (float): when the last item came, by the monotonic clock.
        dropped (int): frames that the model didn't get.
    """

    def __init__(self, items: Iterator[Any], live: bool) -> None:
        self.items, self.live = items, live
        self.came, self.dropped = monotonic(), 0
        self._waiting: deque = deque()
        self._changed = Condition()
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()  # a read from a stream ends by its timeout

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            for item in self.items:
                self.came = monotonic()
                with self._changed:
                    self._add(item)
                    if self._stopped:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _add(self, item: Any) -> None:
        if isinstance(item, _Frame):
            if self.live:
                sound = [one for one in self._waiting if not isinstance(one, _Frame)]
                self.dropped += len(self._waiting) - len(sound)
                self._waiting = deque(sound)
            else:
                self._changed.wait_for(lambda: self._stopped or self._frames_waiting() < AHEAD)
        self._waiting.append(item)
        self._changed.notify_all()

    def _frames_waiting(self) -> int:
        return sum(isinstance(one, _Frame) for one in self._waiting)


def _predict(
    predictor: Predictor,
    frame: np.ndarray,
    time: float,
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
            tracker.update(sample, time)
        line["instances"] = found = instance_lines(sample, category_ids)
        tracks = sample.pred_instances.get("track_ids")
        for i, one in enumerate(found):
            if tracks is not None and tracks[i] >= 0:
                one["track_id"] = int(tracks[i])
        drawn = sum(one["score"] > options.score for one in found)
        summary.instances = (summary.instances or 0) + drawn
    elif "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data
        shares = (torch.bincount(labels.flatten().long()) / labels.numel()).tolist()
        line["classes"] = {
            encodable(class_name(predictor.classes, label)): share
            for label, share in enumerate(shares)
            if share
        }
    else:
        ranked = classification(sample, predictor.classes)
        line.update({key: ranked[key] for key in ("class", "score")})
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
        self.low = min(LOW, score)
        self.step, self.time, self.clock = 1 / rate, 0.0, 0.0

    def update(self, sample: BaseDataElement, time: float) -> None:
        """Adds ``track_ids`` to a sample's instances, -1 where there is none; of a frame's time in
        seconds."""
        step = time - self.time if time > self.time else self.step  # a damaged stream's go back
        self.clock += min(step, GAP)
        self.time = time
        instances = sample.pred_instances
        kept = (instances.scores > self.low).nonzero()[:, 0]
        plain = sample.new()
        plain.pred_instances = InstanceData(
            **{key: instances[key] for key in ("bboxes", "scores", "labels")}
        )[kept]
        found = sample_to_detections(plain)
        found.data["index"] = kept.numpy()
        tracked = self.tracker.update(found, timestamp=self.clock)
        ids = torch.full((len(instances),), -1)
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
        name = next((name for name in ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise SetupError(f"FFmpeg here has none of the encoders {', '.join(ENCODERS)}")
        self.av = av
        path.parent.mkdir(parents=True, exist_ok=True)
        self.out = path.open("wb")  # FFmpeg's own writing says nothing of a full disk
        self.file = av.open(self.out, "w", format="mp4", options=FRAGMENTS)
        self.stream = self.file.add_stream(name, rate=Fraction(rate).limit_denominator(1001))
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, 90_000)
        self.stream.codec_context.gop_size = max(1, round(SECONDS * rate))
        self.stream.codec_context.max_b_frames = 0  # a fragment's times would begin later
        self.size: tuple[int, int] | None = None
        self.sound = self.filter = None
        self.start, self.closed = 0.0, False
        self.early: list = []  # sound before the first picture, whose size the header tells
        self.last = -1
        if source.streams.audio:
            heard = source.streams.audio[0]
            try:
                self.sound = self.file.add_stream_from_template(heard)
                context = heard.codec_context
                if context.name == "aac" and not context.extradata:  # MPEG-TS's form
                    self.filter = av.bitstream.BitStreamFilterContext("aac_adtstoasc", heard)
            except (ValueError, av.error.FFmpegError):  # MP4 has no such sound
                print("the sound is left out: MP4 doesn't hold its format", file=sys.stderr)

    def write(self, picture: np.ndarray, shown: _Frame) -> None:
        """Adds a picture, RGB, of a frame."""
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        if self.size is None:
            self.stream.height, self.stream.width = self.size = picture.shape[:2]
            if shown.aspect:
                self.stream.codec_context.sample_aspect_ratio = shown.aspect
            self.start = shown.start
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self.last = frame.pts = max(self.last + 1, round(shown.time * 90_000))
        frame.time_base = self.stream.codec_context.time_base
        for packet in self.stream.encode(frame):
            self.file.mux(packet)
        early, self.early = self.early, []
        for sound in early:
            self.copy(sound)

    def copy(self, packet: Any) -> None:
        """Adds a packet of sound as it is; what is before the first picture is left out."""
        if packet.dts is None or packet.is_corrupt:  # players stop at one that is cut off
            return
        if self.size is None:
            self.early.append(packet)
            return
        start = round(self.start / packet.time_base)  # of a stream, not 0
        if packet.pts < start:
            return
        packet.pts, packet.dts = packet.pts - start, packet.dts - start
        for part in self.filter.filter(packet) if self.filter else [packet]:
            part.stream = self.sound
            self.file.mux(part)

    def close(self) -> None:
        """Ends the file; what is in it can be played."""
        if self.closed:
            return
        self.closed = True
        try:
            if self.size is not None:
                for packet in self.stream.encode():
                    self.file.mux(packet)
        finally:
            try:
                self.file.close()
            finally:
                self.out.close()


def _broken(source: str, error: Any, frames: int, timeout: float | None) -> UserError:
    """What ended a video; with a timeout, where that was it."""
    said = f"{source} is broken: {error.strerror}"
    if STREAM.match(source) and timeout is not None:
        said = f"{source} gives no frame for {timeout:g} s"
    kept = f": {counted(frames, 'frame is', 'frames are')} predicted on and kept" if frames else ""
    return BadFileError(printable(said + kept), where=source)
