"""Prediction on videos and streams, as a user runs it."""

from __future__ import annotations

import json
import resource
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

import mmpvt
from mmpvt.inference import video
from mmpvt.inference.video import VideoOptions, is_video, predict_video

av = pytest.importorskip("av")
pytest.importorskip("trackers")

RATE, FRAMES = 10, 20


def write_video(
    path: Path,
    sound: bool = True,
    sizes: tuple = ((64, 96),),
    codec: str = "mpeg4",
    heard_as: str = "aac",
    pictures: int = FRAMES,
    **options: str,
) -> Path:
    """Two squares that move; as many frames of each size as of the others. The sound is as long as
    ``FRAMES``."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.height, stream.width = sizes[0]
        stream.pix_fmt = "yuv420p"
        heard = file.add_stream(heard_as, rate=16_000) if sound else None
        for i in range(FRAMES):
            size = sizes[i * len(sizes) // FRAMES]
            image = np.full((*size, 3), 40, np.uint8)
            image[10:30, 2 * i : 2 * i + 20] = (200, 50, 50)
            image[36:56, 70 - 2 * i : 90 - 2 * i] = (50, 200, 50)
            if i < pictures:
                for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                    file.mux(packet)
            if heard:
                wave = np.sin(np.arange(1600) / 20)[None].astype(np.float32)
                if heard_as != "aac":
                    wave = (wave * 20_000).astype(np.int16)
                kind = "fltp" if heard_as == "aac" else "s16"
                samples = av.AudioFrame.from_ndarray(wave, format=kind, layout="mono")
                samples.sample_rate, samples.pts = 16_000, 1600 * i
                samples.time_base = Fraction(1, 16_000)
                for packet in heard.encode(samples):
                    file.mux(packet)
        for one in (stream, heard):
            for packet in one.encode() if one else ():
                file.mux(packet)
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], list[float], float]:
    """Frames, their times, and the seconds of sound."""
    with av.open(str(path)) as file:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
        heard = 0.0
    with av.open(str(path)) as file:
        if file.streams.audio:
            heard = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    return [image for _, image in frames], [time for time, _ in frames], heard


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Oracle:
    """Finds the two squares; a stand-in for a trained detector."""

    classes = ["square", "other"]

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: np.ndarray) -> DetDataSample:
        i, self.calls = self.calls, self.calls + 1
        boxes = [[2 * i, 10, 2 * i + 20, 30], [70 - 2 * i, 36, 90 - 2 * i, 56], [5, 5, 9, 9]]
        order = [1, 0, 2] if i % 2 else [0, 1, 2]  # whichever comes first
        sample = DetDataSample(metainfo=dict(ori_shape=frame.shape[:2]))
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([boxes[k] for k in order], dtype=torch.float32),
            scores=torch.tensor([[0.9, 0.8, 0.05][k] for k in order]),
            labels=torch.tensor([[0, 0, 1][k] for k in order]),
        )
        return sample

    draw = mmpvt.Predictor.draw
    meta = dict(classes=classes)
    tiling = None


def test_a_video_with_sound(tmp_path: Path, tiny_config, trained, call_tool):
    """As long as the original, frame by frame, with its sound; a line of JSON a frame."""
    source, out = write_video(tmp_path / "clip.mp4"), tmp_path / "out"
    args = (tiny_config, trained / "epoch_2.pth", source, "--out", out)
    ended = call_tool("predict.py", *args, "--track", "--score", 0.01)
    assert ended.code == 0, ended.err
    assert "20 frames" in ended.out and "tracks" in ended.out and "clip.mp4" in ended.out
    frames, times, heard = read_video(out / "clip.mp4")
    assert len(frames) == FRAMES and frames[0].shape == (480, 720, 3)
    np.testing.assert_allclose(np.diff(times)[1:], 1 / RATE, atol=2e-3)
    assert times[0] == 0 and times[-1] == pytest.approx(1.9, abs=0.1)  # AAC begins 0.064 s before
    assert heard == pytest.approx(read_video(source)[2], abs=0.1) and heard > 1.9
    lines = read_lines(out / "clip.jsonl")
    assert [line["frame"] for line in lines] == list(range(FRAMES))
    assert all(line["instances"] for line in lines)
    predictor = mmpvt.Predictor(tiny_config, trained / "epoch_2.pth", "cpu")
    with av.open(str(source)) as file:
        first = next(file.decode(video=0)).to_ndarray(format="bgr24")
    scores = predictor(first).pred_instances.scores
    found = [one["score"] for one in lines[0]["instances"]]
    np.testing.assert_allclose(found, scores, atol=1e-5)
    again = call_tool("predict.py", *args, "--fps", 4, "--seconds", 1, "--no-pictures")
    assert again.code == 0, again.err
    assert len(read_lines(out / "clip.jsonl")) == 4
    again = call_tool("predict.py", *args, "--fps", 4, "--no-pictures")
    assert again.code == 0, again.err
    times = [line["time"] for line in read_lines(out / "clip.jsonl")]
    assert len(times) == 8 and min(np.diff(times)) > 0.19


def test_tracks(tmp_path: Path):
    """Each square keeps its identity, in whatever order the boxes come; it is drawn."""
    source = write_video(tmp_path / "clip.mkv", sound=False)
    options = VideoOptions(track=True)
    summary = predict_video(Oracle(), str(source), tmp_path / "out", options)
    assert (summary.frames, summary.instances, summary.tracks) == (FRAMES, 2 * FRAMES, 2)
    identities = set()
    for line in read_lines(summary.lines)[1:]:
        upper, lower = (
            next(one for one in line["instances"] if one["bbox"][1] == top) for top in (10, 36)
        )
        identities.add((upper["track_id"], lower["track_id"]))
        assert "track_id" not in next(one for one in line["instances"] if one["score"] < 0.3)
    assert len(identities) == 1
    assert read_video(summary.video)[2] == 0
    with pytest.raises(mmpvt.UserError, match="the result of an earlier run"):
        predict_video(Oracle(), str(summary.video), tmp_path / "out", options)


def found_at(*boxes: tuple[float, float]) -> DetDataSample:
    """Squares of 40 pixels at a place, with a score."""
    sample = DetDataSample(metainfo=dict(ori_shape=(100, 400)))
    corners = [[x, 50, x + 40, 90] for x, _ in boxes]
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([score for _, score in boxes]),
        labels=torch.zeros(len(boxes), dtype=torch.long),
    )
    return sample


def test_what_has_next_to_no_score_continues_no_track():
    """Where an object was, detectors find others with scores of 0.01."""
    tracker = video._Tracker(10, 0.3)
    frames = [[(50 + i, 0.9), (55, 0.01)] for i in range(4)] + [[(55, 0.01)]] * 15
    identities = []
    for i, boxes in enumerate([*frames, [(56, 0.9)], [(56, 0.9)]]):
        sample = found_at(*boxes)
        tracker.update(sample, i / 10)
        identities.append(sample.pred_instances.track_ids.tolist())
    assert identities[1:4] == [[0, -1]] * 3
    assert identities[4:19] == [[-1]] * 15
    assert identities[-1] == [1]  # another one


@pytest.mark.parametrize(
    "times",
    [
        [*np.arange(12) / 25, 0.84, 0.88, 0.92, 1.3, 1.34],  # some are dropped
        [0.0, 0.5, 1.0, 1.04, 0.2, 0.24, 0.28],  # a damaged stream
        [0.0, 2.0, 4.0, 6.5, 8.0],  # a slow model, or --fps 0.5
    ],
)
def test_tracks_at_any_rate(times: list[float]):
    """How far an object has come follows from the frames' times."""
    tracker, place, before = video._Tracker(25, 0.3), 10.0, 0.0
    for time_of_frame in times:
        step = time_of_frame - before
        place, before = place + 150 * (step if 0 <= step < 0.5 else 0.04), time_of_frame
        tracker.update(found_at((place, 0.9)), time_of_frame)
    assert tracker.seen == {0}


def write_frames(path: Path, times_in_ms: Sequence[int]) -> Path:
    """Black frames whose pixels aren't square, at times as Matroska holds them."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_in_ms in times_in_ms:
            frame = av.VideoFrame(96, 64, "yuv420p")
            frame.pts, frame.time_base = time_in_ms, Fraction(1, 1000)
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return path


def test_frames_of_any_rate_and_pixels_of_any_shape(tmp_path: Path):
    """After a gap, too, frames are apart; pixels that aren't square stay so."""
    source = write_frames(tmp_path / "clip.mkv", (0, 100, 500, 2000, 2100, 2400, 2500))
    summary = predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions(fps=2))
    assert [line["time"] for line in read_lines(summary.lines)] == [0, 0.5, 2, 2.5]
    with av.open(str(summary.video)) as file:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_frames_at_the_rate_of_the_source(tmp_path: Path):
    """None is skipped, though its times are rounded to milliseconds."""
    source = write_frames(tmp_path / "clip.mkv", [round(i * 1000 / 30) for i in range(31)])
    summary = predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions(fps=30))
    assert len(read_lines(summary.lines)) == 31


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), [[2, 0], [3, 1]]),
        ((0, -1, 1, 0), [[1, 3], [0, 2]]),
        ((-1, 0, 0, -1), [[3, 2], [1, 0]]),
        ((-1, 0, 0, 1), [[1, 0], [3, 2]]),
        ((1, 0, 0, -1), [[2, 3], [0, 1]]),
        ((0, 1, 1, 0), [[0, 2], [1, 3]]),
    ],
)
def test_videos_that_are_turned_or_mirrored(tmp_path: Path, matrix: tuple, turned: list):
    """As QuickTime's matrix says: x becomes (a, b), y (c, d)."""
    path, (a, b, c, d) = tmp_path / "clip.mp4", (one << 16 for one in matrix)
    image = np.array([[0, 80], [160, 240]], np.uint8).repeat(48, 0).repeat(64, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        frame = av.VideoFrame.from_ndarray(image.repeat(3).reshape(96, 128, 3), format="rgb24")
        file.mux([*stream.encode(frame), *stream.encode()])
    content = bytearray(path.read_bytes())
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    shown = []

    class Shown(Oracle):
        def __call__(self, frame: np.ndarray) -> DetDataSample:
            shown.append(frame)
            return super().__call__(frame)

    predict_video(Shown(), str(path), tmp_path / "out", VideoOptions())
    height, width = shown[0].shape[:2]
    assert (height, width) == ((128, 96) if b else (96, 128))
    found = shown[0][height // 4 :: height // 2, width // 4 :: width // 2, 0]
    np.testing.assert_allclose(found, np.array(turned) * 80, atol=8)


def test_a_segmenter(tmp_path: Path, untrained_segmenter, call_tool):
    source = write_video(tmp_path / "clip.avi", sound=False)
    ended = call_tool("predict.py", *untrained_segmenter, source, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    lines = read_lines(tmp_path / "out" / "clip.jsonl")
    assert len(lines) == FRAMES
    assert all(sum(line["classes"].values()) == pytest.approx(1, abs=1e-4) for line in lines)
    assert len(read_video(tmp_path / "out" / "clip.mp4")[0]) == FRAMES


def test_interrupted_video_can_be_played(tmp_path: Path):
    """After Ctrl-C; and the fragments of a run that was killed."""
    source = write_video(tmp_path / "clip.mp4")

    class Interrupted(Oracle):
        def __call__(self, frame: np.ndarray) -> DetDataSample:
            if self.calls == 12:
                raise KeyboardInterrupt
            return super().__call__(frame)

    with pytest.raises(KeyboardInterrupt):
        predict_video(Interrupted(), str(source), tmp_path / "out", VideoOptions())
    assert len(read_video(tmp_path / "out" / "clip.mp4")[0]) == 12
    assert len(read_lines(tmp_path / "out" / "clip.jsonl")) == 12
    assert not list((tmp_path / "out").glob("*.part"))


def test_videos_that_cannot_be_used(tmp_path: Path, tiny_config, trained, call_tool):
    """One sentence, exit code 2; what was predicted on is kept."""
    model = (tiny_config, trained / "epoch_2.pth")
    whole = write_video(tmp_path / "whole.mkv", sound=False).read_bytes()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        heard = file.add_stream("aac", rate=16_000)
        wave = np.zeros((1, 1600), np.float32)
        samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        samples.sample_rate = 16_000
        for packet in [*heard.encode(samples), *heard.encode()]:
            file.mux(packet)
    (tmp_path / "header.mkv").write_bytes(whole[:600])
    (tmp_path / "list.ts").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile whole.mkv\n")
    video_file = tmp_path / "whole.mkv"
    for images, options, said in (
        ([tmp_path / "no.mp4"], (), "no video at"),
        ([tmp_path / "text.mp4"], (), "can't be read as a video"),
        ([tmp_path / "empty.mp4"], (), "can't be read as a video"),
        ([tmp_path / "list.ts"], (), "can't be read as a video"),
        ([tmp_path / "concat.mp4"], (), "can't be read as a video"),
        ([tmp_path / "sound.mp4"], (), "holds no video, but sound"),
        ([tmp_path / "header.mkv"], (), "holds no frames"),
        ([video_file, tmp_path / "text.mp4"], (), "name one at a time"),
        ([video_file], ("--fps", 0), "--fps 0.0: a number greater than 0"),
        ([video_file], ("--seconds", "nan"), "--seconds nan: a number greater than 0"),
        ([video_file], ("--timeout", -1), "--timeout -1.0: a number greater than 0"),
        ([video_file], ("--resume",), "--resume is for images"),
        (["/dev/video77"], (), "there is no camera /dev/video77"),
    ):
        ended = call_tool("predict.py", *model, *images, "--out", tmp_path / "out", *options)
        assert said in ended.one_sentence()
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((64, 64, 3), np.uint8))
    ended = call_tool("predict.py", *model, image, "--out", tmp_path / "out", "--track")
    assert "--track is for a video" in ended.one_sentence()


def test_a_truncated_file(tmp_path: Path, tiny_config, trained, call_tool):
    """What is there is predicted on, what is missing is said; whatever the length of its name."""
    intact = write_video(tmp_path / "intact.mkv", sound=False)
    content = intact.read_bytes()
    cut = tmp_path / f"{'x' * 251}.mkv"
    cut.write_bytes(content[: len(content) * 2 // 3])
    model = (tiny_config, trained / "epoch_2.pth")
    ended = call_tool("predict.py", *model, cut, "--out", tmp_path / "out")
    assert ended.code == 0 and "s shorter than the file says" in ended.out, ended
    (found,) = (tmp_path / "out").glob("xxx*.mp4")
    assert len(read_video(found)[0]) == len(read_lines(found.with_suffix(".jsonl")))
    for options in (VideoOptions(), VideoOptions(seconds=0.5), VideoOptions(fps=1.5)):
        assert not predict_video(Oracle(), str(intact), tmp_path / "other", options).missing


def test_intact_files_lack_nothing(tmp_path: Path):
    """Whatever the length of their sound, the time of their first frame, and their frame rate."""
    for name in ("longer.mp4", "longer.mkv"):  # is the sound
        path = write_video(tmp_path / name, pictures=FRAMES // 2)
        assert not predict_video(Oracle(), str(path), tmp_path / "out", VideoOptions()).missing
    for name, rate, first in (("late.mkv", 10, 1000), ("slow.ts", 1, 0)):
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4", rate=rate)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            for i in range(4):
                frame = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8))
                frame.pts, frame.time_base = first + i, Fraction(1, rate)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        assert not predict_video(Oracle(), str(path), tmp_path / "out", VideoOptions()).missing


def test_truncated_sound(tmp_path: Path):
    """Its last packet isn't copied: players stop at it."""
    path = write_video(tmp_path / "a.mp4", movflags="faststart")
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(audio=0) if packet.size]
    last = packets[len(packets) // 2]
    path.write_bytes(path.read_bytes()[: last.pos + last.size // 2])
    summary = predict_video(Oracle(), str(path), tmp_path / "out", VideoOptions())
    assert 0.5 < summary.missing < 1.5
    assert 0.5 < read_video(summary.video)[2] < 1.5


def test_the_url_of_an_image(tmp_path: Path):
    """It is no video of one frame; JPEG after JPEG, as cameras send them, is one."""
    small, large = (
        cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (side, side, 3)))[
            1
        ].tobytes()
        for side in (64, 320)
    )
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for content in (small, large, 3 * large):
                head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
                with server.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(head.encode() + content)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("small.jpg", "large.jpg"):
            with pytest.raises(mmpvt.UserError, match="is an image, not a video: download it"):
                predict_video(Oracle(), f"{url}/{name}", tmp_path / "out", VideoOptions())
        made = predict_video(Oracle(), f"{url}/camera", tmp_path / "out", VideoOptions())
        assert made.frames == 3


def test_images_that_a_camera_sends_over_http(tmp_path: Path):
    """JPEG files in parts, which have no times: those at which they come are taken."""
    image = cv2.imencode(".jpg", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    part = b"--a\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            head = "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=a\r\n\r\n"
            connection.sendall(head.encode())
            with suppress(OSError):
                for _ in range(100):
                    connection.sendall(part + image + b"\r\n")
                    time.sleep(0.2)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        made = predict_video(Oracle(), url, tmp_path / "out", VideoOptions(seconds=1))
    assert 3 <= made.frames < 10


def test_a_video_of_changing_size(tmp_path: Path):
    """Ends it; what was before is a video."""
    halves = [
        write_video(tmp_path / f"{n}.ts", False, (size,), "mpeg2video")
        for n, size in enumerate(((64, 96), (96, 128)))
    ]
    source = tmp_path / "both.ts"
    source.write_bytes(b"".join(half.read_bytes() for half in halves))
    with pytest.raises(mmpvt.UserError, match=r"changes its size after .* from 96x64 to 128x96"):
        predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions())
    # the decoder holds one frame back, which the new size makes it forget
    assert len(read_video(tmp_path / "out" / "both.mp4")[0]) >= FRAMES - 1


def test_folders_are_no_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder a class or sequence, and one of a video's frames."""
    monkeypatch.chdir(tmp_path)
    for name in ("7", "12", "clip.avi"):
        assert is_video(name)
        Path(name).mkdir()
        assert not is_video(name)


def test_a_stream_that_stalls(tmp_path: Path):
    """A server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"
        with pytest.raises(mmpvt.UserError, match=r"gives no answer in 0\.5 s"):
            predict_video(Oracle(), url, tmp_path / "out", VideoOptions(timeout=0.5))
    assert is_video("RTSP://host/live") and is_video("0") and not is_video("photos")
    assert not (tmp_path / "out").exists()


def test_a_stream_that_stalls_in_the_middle(tmp_path: Path):
    """What came is kept, and can be played."""
    content = write_video(tmp_path / "clip.ts", True, codec="mpeg2video").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + content[: len(content) // 2])
            stopped.wait(30)
            connection.close()

        stopped = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        with pytest.raises(mmpvt.UserError, match=r"gives no frame for 1 s: \d+ frames are"):
            predict_video(Oracle(), url, tmp_path / "out", VideoOptions(timeout=1))
        stopped.set()
        thread.join()
    frames = read_video(tmp_path / "out" / "clip.mp4")[0]
    assert FRAMES > len(frames) == len(read_lines(tmp_path / "out" / "clip.jsonl")) > 5


def test_a_live_stream_and_a_slow_model(tmp_path: Path):
    """The newest frames are predicted on, at their times; the others are counted."""

    class Slow(Oracle):
        def __call__(self, frame: np.ndarray) -> DetDataSample:
            time.sleep(0.25)
            return super().__call__(frame)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{free.getsockname()[1]}"

    def send() -> None:
        with av.open(url, "w", format="mpegts") as file:
            options = dict(tune="zerolatency", g="5")
            stream = file.add_stream("libx264", rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            began = time.monotonic()
            while not stopped.wait(0.04):
                image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.time_base = Fraction(1, 1000)
                frame.pts = round(1000 * (time.monotonic() - began))  # also on a busy machine
                for packet in stream.encode(frame):
                    file.mux(packet)

    stopped = threading.Event()
    sender = threading.Thread(target=send)
    timer = threading.Timer(5, stopped.set)
    for thread in (sender, timer):
        thread.start()
    try:
        with pytest.raises(mmpvt.UserError, match=r"gives no frame for 1\.5 s: \d+ frames are"):
            predict_video(Slow(), url, tmp_path / "out", VideoOptions(timeout=1.5))
    finally:
        stopped.set()
        sender.join()
    times = [line["time"] for line in read_lines(tmp_path / "out" / "stream.jsonl")]
    assert len(times) > 4 and np.median(np.diff(times)) > 0.2
    assert times[-1] > 0.25 * len(times) - 0.5  # none is late


def test_a_codec_that_is_not_there(tmp_path: Path):
    content = write_video(tmp_path / "clip.avi", sound=False).read_bytes()
    assert content.count(b"FMP4") == 2
    (tmp_path / "other.avi").write_bytes(content.replace(b"FMP4", b"zz9z"))
    with pytest.raises(mmpvt.UserError, match="takes a codec that FFmpeg here doesn't have"):
        predict_video(Oracle(), str(tmp_path / "other.avi"), tmp_path / "out", VideoOptions())
    assert not (tmp_path / "out").exists()


def test_damaged_packets(tmp_path: Path):
    """They are counted, and the others predicted on; a file of nothing else holds no frames."""
    source = write_video(tmp_path / "a.mp4", False, codec="libx264")
    with av.open(str(source)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    content = bytearray(source.read_bytes())
    for position, size in packets[8:11]:
        content[position : position + size] = b"\xff" * size
    (tmp_path / "few.mp4").write_bytes(content)
    few = predict_video(Oracle(), str(tmp_path / "few.mp4"), tmp_path / "out", VideoOptions())
    assert few.damaged == 3 and FRAMES - 3 >= few.frames >= FRAMES - 6
    source = write_video(tmp_path / "a.mkv", False)
    with av.open(str(source)) as file:
        content = bytearray(source.read_bytes())
        for packet in file.demux(video=0):
            data = bytes(packet)
            if data:
                content = content.replace(data, b"\xff" * len(data))
    (tmp_path / "all.mkv").write_bytes(content)
    with pytest.raises(mmpvt.UserError, match=r"all\.mkv holds no frames that can be decoded"):
        predict_video(Oracle(), str(tmp_path / "all.mkv"), tmp_path / "out", VideoOptions())


def test_sound_of_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Its clock doesn't begin at 0, its AAC is of another form; and sound that MP4 lacks."""
    source = write_video(tmp_path / "clip.ts", codec="mpeg2video")
    summary = predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions())
    frames, times, heard = read_video(summary.video)
    assert len(frames) == FRAMES and times[0] == 0 and times[-1] == pytest.approx(1.9, abs=0.01)
    assert heard == pytest.approx(read_video(source)[2], abs=0.15) and heard > 1.7
    with av.open(str(summary.video)) as file:
        assert next(file.demux(audio=0)).pts * file.streams.audio[0].time_base < 0.1
    assert not capsys.readouterr().err.count("left out")
    source = write_video(tmp_path / "call.avi", heard_as="pcm_mulaw")
    summary = predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions())
    assert len(read_video(summary.video)[0]) == FRAMES
    assert "the sound is left out: MP4 doesn't hold its format" in capsys.readouterr().err


def test_a_full_disk(tmp_path: Path):
    """One sentence; what fitted on it is kept, and can be played."""
    source = write_video(tmp_path / "clip.mp4")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        with pytest.raises(mmpvt.UserError, match=r"can't be written"):
            predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions(fps=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_lines(tmp_path / "out" / "clip.jsonl")
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_classifier_without_class_names(tmp_path: Path):
    """A class is named by its number then, as on images."""

    class Classifier(Oracle):
        classes: list[str] = []
        meta: dict = {}

        def __call__(self, frame: np.ndarray) -> DataSample:
            sample = DataSample(metainfo=dict(ori_shape=frame.shape[:2]))
            return sample.set_pred_score(torch.tensor([0.1, 0.2, 0.7])).set_pred_label(2)

    source = write_video(tmp_path / "clip.mp4", sound=False)
    summary = predict_video(Classifier(), str(source), tmp_path / "out", VideoOptions())
    lines = read_lines(summary.lines)
    assert len(lines) == FRAMES
    assert {(line["class"], round(line["score"], 3)) for line in lines} == {("2", 0.7)}


def test_a_segmenter_with_fewer_names_than_classes(tmp_path: Path):
    class Segmenter(Oracle):
        def __call__(self, frame: np.ndarray) -> SegDataSample:
            labels = torch.zeros(1, *frame.shape[:2], dtype=torch.uint8)
            labels[:, :, : frame.shape[1] // 4] = 2
            return SegDataSample(pred_sem_seg=PixelData(data=labels))

    source = write_video(tmp_path / "clip.mp4", sound=False)
    options = VideoOptions(seconds=0.1, draw=False)
    summary = predict_video(Segmenter(), str(source), tmp_path / "out", options)
    assert read_lines(summary.lines)[0]["classes"] == {"square": 0.75, "2": 0.25}


def test_ffmpeg_without_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write_video(tmp_path / "clip.mp4", sound=False)
    monkeypatch.setattr(video, "ENCODERS", ("none",))
    with pytest.raises(mmpvt.UserError, match="none of the encoders none"):
        predict_video(Oracle(), str(source), tmp_path / "out", VideoOptions())
    assert not list((tmp_path / "out").glob("*.part"))


def test_without_packages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mmpvt.UserError, match=r"PyAV, which isn't installed: pip install"):
        video.import_av()
