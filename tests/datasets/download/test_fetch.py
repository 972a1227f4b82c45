"""Downloads of data sets that are killed at any moment; disks too small; two at once."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import signal
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from faulty_server import Server, serving
from mmpvt import UserError
from mmpvt.datasets.download import download_archives
from mmpvt.datasets.download.catalog import FILES, RemoteFile, choose
from mmpvt.errors import ConfigError, DatasetError, OutputError
from mmpvt.utils.download import RetryPolicy
from mmpvt.utils.locking import locked

POLICY = RetryPolicy(timeout=20, retries=2, backoff=0.01)
CONTENT = {
    name: {f"{name}/{i:04}.jpg": random.Random(i).randbytes(4000) for i in range(300)}
    for name in ("train", "val")
}


def archive(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


ARCHIVES = {f"/{name}.zip": archive(files) for name, files in CONTENT.items()}


def sources(server: Server) -> list[RemoteFile]:
    return [
        RemoteFile(
            server.url + path,
            size=len(content),
            sha1=hashlib.sha1(content).hexdigest(),
            unpacked_size=2_000_000,
            files={path[1:-4]: 300},
        )
        for path, content in ARCHIVES.items()
    ]


def received(name: str, size: int) -> Callable[[Path], bool]:
    """Whether so much of an archive was received."""

    def reached(folder: Path) -> bool:
        path = folder / ".download" / f"{name}.zip.part"
        try:
            return path.stat().st_size >= size
        except FileNotFoundError:  # not begun, or just unpacked and removed
            return False

    return reached


def unpacked(name: str, count: int) -> Callable[[Path], bool]:
    """Whether so many files are unpacked."""

    def reached(folder: Path) -> bool:
        path = folder / ".download" / f"unpacked-{name}" / name
        try:
            return len(list(path.iterdir())) >= count
        except FileNotFoundError:  # not begun, or just put into its place
            return False

    return reached


MOMENTS = [
    *(received("train", size) for size in (1, 300_000, 900_000)),
    *(unpacked("train", count) for count in (1, 100, 250)),
    lambda folder: (folder / "train").exists(),
    *(received("val", size) for size in (1, 600_000)),
    unpacked("val", 150),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA can't be copied to a process")
def test_killed_at_any_moment(tmp_path: Path):
    """A folder is complete as soon as it has its name, and what was received is not lost."""
    context = multiprocessing.get_context("fork")
    kills = 0
    with serving(dict(ARCHIVES)) as server:
        server.rate = 4e6
        arguments = (sources(server), tmp_path, POLICY)
        for reached in MOMENTS:
            process = context.Process(target=download_archives, args=arguments)
            process.start()
            while process.is_alive() and not reached(tmp_path):
                pass
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
            for name in CONTENT:
                check_complete_or_absent(tmp_path, name)
        download_archives(sources(server), tmp_path, POLICY)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]
        for name in CONTENT:
            check_complete_or_absent(tmp_path, name)
        assert kills >= 3, "a busy machine misses some of the moments"
        begun = [asked for asked in server.asked if asked is None]
        assert len(server.asked) > len(begun), "it resumed"


def check_complete_or_absent(folder: Path, name: str) -> None:
    if (folder / name).exists():
        found = {f"{name}/{path.name}": path.read_bytes() for path in (folder / name).iterdir()}
        assert found == CONTENT[name]


def test_disk_too_small(tmp_path: Path):
    with serving(dict(ARCHIVES)) as server:
        first, second = sources(server)
        huge = [first, replace(second, unpacked_size=10**15)]
        with pytest.raises(OutputError, match=r"GB free, and train\.zip, val\.zip take 1\.0 PB"):
            download_archives(huge, tmp_path, POLICY)
        assert not server.asked and not list(tmp_path.iterdir())


def test_archives_kept(tmp_path: Path, capsys: pytest.CaptureFixture):
    with serving(dict(ARCHIVES)) as server:
        download_archives(sources(server), tmp_path, POLICY, keep_archives=True)
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"downloading {server.url}/train.zip, then 1 more (1.2 MB)"
        kept = sorted(path.name for path in (tmp_path / ".download").iterdir())
        assert kept == ["train.zip", "val.zip"]


def hold(folder: Path, is_held: Event, release: Event) -> None:
    with locked(folder, "--dir"):
        is_held.set()
        release.wait()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA can't be copied to a process")
def test_two_at_once(tmp_path: Path):
    (tmp_path / ".download").mkdir()
    context = multiprocessing.get_context("fork")
    is_held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / ".download", is_held, release))
    process.start()
    assert is_held.wait(20)
    with serving(dict(ARCHIVES)) as server:
        with pytest.raises(UserError, match=rf"in use by another run .* process {process.pid}"):
            download_archives(sources(server), tmp_path, POLICY)
        release.set()
        process.join()
        download_archives(sources(server), tmp_path, POLICY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]


def test_another_archive_of_that_checksum(tmp_path: Path):
    """What is in it is counted, too."""
    with serving(dict(ARCHIVES)) as server:
        more = [replace(sources(server)[0], files={"train": 301})]
        with pytest.raises(DatasetError, match=r"holds 300 of 301 files: .* is another archive"):
            download_archives(more, tmp_path, POLICY)
        assert not (tmp_path / "train").exists()


def test_what_there_is():
    assert [source.name for source in choose("coco", [], None)] == [
        "val2017.zip",
        "annotations_trainval2017.zip",
        "train2017.zip",
    ]
    for name in ("coco", "ade20k"):
        for source in FILES[name].values():
            assert source.size and len(source.sha1) == 40 and source.folder and source.files
    assert [f"{name}.pth" for name in FILES["weights"]] == [
        f.name for f in FILES["weights"].values()
    ]
    assert len(FILES["weights"]) == 11
    (source,) = choose("weights", ["pvt_v2_b2_li"], "https://example.org/mirror/")
    assert source.url == "https://example.org/mirror/pvt_v2_b2_li.pth"
    with pytest.raises(ConfigError, match="coco has no val: take some of val2017"):
        choose("coco", ["val"], None)
    with pytest.raises(ConfigError, match="begins with https:// or http://"):
        choose("coco", [], "file:///data")


def test_speed_of_a_download(tmp_path: Path):
    """Nothing here is slower than a fast line."""
    content = bytes(200_000_000)
    with serving({"/a.zip": content}) as server:
        source = RemoteFile(f"{server.url}/a.zip", len(content), hashlib.sha1(content).hexdigest())
        began = time.monotonic()
        with pytest.raises(DatasetError, match="is no zip archive"):
            download_archives([replace(source, files={"a": 1})], tmp_path, POLICY)
        assert time.monotonic() - began < 20
