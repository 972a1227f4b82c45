"""Downloads from a server that cuts, stalls and lies: nothing broken is ever kept as good."""

from __future__ import annotations

import email.utils
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import faulty_server as faults
from faulty_server import Server, serving
from mmpvt import UserError
from mmpvt.datasets.download.sources import Source
from mmpvt.datasets.download.transfer import Patience, fetch

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
PATIENCE = Patience(timeout=60, tries=4, pause=0.01)  # a busy machine is no stalled server
IMPATIENCE = replace(PATIENCE, timeout=1)
STALLING = {faults.stall, faults.silence}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/a.bin": CONTENT}) as server:
        yield server


@pytest.fixture
def source(server: Server) -> Source:
    sha1 = hashlib.sha1(CONTENT).hexdigest()
    return Source("a.bin", f"{server.address}/a.bin", size=len(CONTENT), sha1=sha1)


@pytest.fixture
def unknown(source: Source) -> Source:
    """The same file, of which nothing is known."""
    return replace(source, size=None, sha1=None)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def refused(source: Source, folder: Path, patience: Patience = PATIENCE) -> str:
    """What is said of a file that can't be had; nothing is under its name."""
    with pytest.raises(UserError) as caught:
        fetch(source, folder / "a.bin", patience)
    assert not (folder / "a.bin").exists()
    return str(caught.value)


def test_whole(server: Server, source: Source, tmp_path: Path):
    fetch(source, tmp_path / "new" / "a.bin", PATIENCE)
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.bin"]
    assert server.asked == [None]


MENDED = {
    "cut": [faults.cut],
    "cut three times": [faults.cut] * 3,
    "stalled": [faults.stall],
    "silent": [faults.silence],
    "hung up": [faults.hang_up],
    "nonsense": [faults.nonsense],
    "busy": [faults.status(503)],
    "busy, come back at once": [faults.status(503, Retry_After="0")],
    "too many": [faults.status(429, Retry_After="0")],
    "announces more": [faults.too_long],
    "another range": [faults.cut, faults.another_range],
    "a wrong byte in the rest": [faults.cut, faults.wrong_byte],
    "cut, busy, stalled, cut": [faults.cut, faults.status(502), faults.stall, faults.cut],
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", MENDED)
def test_mended(
    name: str, known: bool, server: Server, source: Source, unknown: Source, tmp_path: Path
):
    if name == ("announces more" if known else "a wrong byte in the rest"):
        pytest.skip("that is refused at once; this can't be known, but for the file's own sums")
    server.faults = list(MENDED[name])
    patience = IMPATIENCE if STALLING & set(server.faults) else PATIENCE
    fetch(source if known else unknown, tmp_path / "a.bin", patience)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]


def test_goes_on_where_it_was_cut(server: Server, unknown: Source, tmp_path: Path):
    server.faults = [faults.cut, faults.cut]
    fetch(unknown, tmp_path / "a.bin", PATIENCE)
    assert server.asked == [None, "bytes=150000-", "bytes=225000-"]


def test_another_process_goes_on(server: Server, unknown: Source, tmp_path: Path):
    server.always = faults.cut
    once = replace(PATIENCE, tries=1)
    assert "what has come is kept" in refused(unknown, tmp_path, once)
    server.always = None
    fetch(unknown, tmp_path / "a.bin", once)
    assert server.asked == [None, "bytes=150000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_server_without_ranges(server: Server, source: Source, tmp_path: Path):
    server.ranges = False
    server.faults = [faults.cut]
    fetch(source, tmp_path / "a.bin", PATIENCE)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("then", [faults.Handler.give, faults.heedless, faults.cut])
@pytest.mark.parametrize("length", [300_000, 200_000, 100_000])
def test_file_that_changes(
    then, length: int, server: Server, unknown: Source, source: Source, tmp_path: Path
):
    """The new one comes as a whole; where another is known, it is refused."""
    server.faults = [faults.cut, faults.changes(OTHER[:length], then)]
    fetch(unknown, tmp_path / "a.bin", PATIENCE)
    assert (tmp_path / "a.bin").read_bytes() == OTHER[:length]
    (tmp_path / "a.bin").unlink()
    server.files["/a.bin"] = CONTENT
    server.faults = [faults.cut, faults.changes(OTHER[:length], then)]
    assert "another file than a.bin" in refused(source, tmp_path)


def test_page_in_place_of_the_rest(server: Server, source: Source, tmp_path: Path):
    """A network that asks to log in costs nothing of what has come."""
    server.faults = [faults.cut, faults.page]
    assert "it has 26 bytes, not 300000" in refused(source, tmp_path)
    fetch(source, tmp_path / "a.bin", PATIENCE)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=150000-", "bytes=150000-"]


def test_nothing_tells_one_file_from_the_next(server: Server, unknown: Source, tmp_path: Path):
    """Then a beginning is of no use."""
    server.tag = None
    server.faults = [faults.cut, faults.changes(OTHER, faults.cut)]
    fetch(unknown, tmp_path / "a.bin", PATIENCE)
    assert server.asked[:2] == [None, None]
    assert (tmp_path / "a.bin").read_bytes() == OTHER


REFUSED = {
    "not there": (faults.status(404), "404 Not Found): check the address"),
    "forbidden": (faults.status(403), "403 Forbidden"),
    "busy for hours": (faults.status(503, Retry_After="9999"), "to come back in 9999 seconds"),
    "always busy": (faults.status(503), "503 Service Unavailable; 4 times in a row"),
    "always silent": (faults.silence, "nothing came for 1 s; 4 times in a row"),
    "always nonsense": (faults.nonsense, "4 times in a row"),
    "a wrong byte": (faults.wrong_byte, "its SHA-1 isn't"),
    "a page": (faults.page, "it has 26 bytes, not 300000"),
    "announces more": (faults.too_long, "it has 301000 bytes, not 300000"),
    "announces less": (faults.too_short, "it has 299000 bytes, not 300000"),
    "length not said": (faults.no_length, "150000 bytes came, not 300000"),
    "words for a terminal": (faults.status(404, "\x1b[2Jgone"), "404 ?[2Jgone"),
    "to a file": (faults.redirect("file:///etc/passwd"), "file:///etc/passwd"),
    "to FTP": (faults.redirect("ftp://127.0.0.1/a.bin"), "redirects to ftp://"),
    "packed": (faults.status(200, Content_Encoding="gzip"), "its server packs what it sends"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, server: Server, source: Source, tmp_path: Path):
    server.always, reason = REFUSED[name]
    patience = IMPATIENCE if server.always in STALLING else PATIENCE
    said = refused(source, tmp_path, patience)
    assert reason in said and "\n" not in said
    assert not names(tmp_path), "nothing of it may be of use"


def test_server_asks_for_patience(server: Server, source: Source, tmp_path: Path):
    when = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.faults = [faults.status(503, Retry_After=when)]
    began = time.monotonic()
    fetch(source, tmp_path / "a.bin", PATIENCE)
    assert time.monotonic() - began > 0.9


def test_no_server(tmp_path: Path):
    source = Source("a.bin", "http://127.0.0.1:9/a.bin")
    assert "Connection refused; 4 times in a row" in refused(source, tmp_path)


def test_verified_before_it_has_its_name(server: Server, unknown: Source, tmp_path: Path):
    def verify(path: Path) -> None:
        assert path.read_bytes() == CONTENT and not (tmp_path / "a.bin").exists()
        raise UserError("not this one")

    with pytest.raises(UserError, match="not this one"):
        fetch(unknown, tmp_path / "a.bin", PATIENCE, verify)
    assert not names(tmp_path)


def test_longer_than_anything(server: Server, unknown: Source, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmpvt.datasets.download.transfer.LIMIT", 100_000)
    server.always = faults.no_length
    assert "is longer than 100000 bytes" in refused(unknown, tmp_path)


@pytest.mark.parametrize("junk", [b"junk", bytes(400_000)])
def test_junk_in_place_of_a_beginning(junk: bytes, server: Server, source: Source, tmp_path: Path):
    (tmp_path / "a.bin.part").write_bytes(junk)
    (tmp_path / "a.bin.part.json").write_text("[}")
    fetch(source, tmp_path / "a.bin", PATIENCE)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_folder_that_can_not_be_written(server: Server, source: Source, tmp_path: Path):
    (tmp_path / "a.bin.part.json").mkdir()
    with pytest.raises(UserError, match="can't be written"):
        fetch(source, tmp_path / "a.bin", PATIENCE)
