"""Downloads from a server that cuts, stalls and lies: nothing broken is kept as good."""

from __future__ import annotations

import email.utils
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

import faulty_server as faults
from faulty_server import Server, serving
from mmpvt.errors import DownloadError, OutputError, UserError
from mmpvt.utils.download import RetryPolicy, download

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
POLICY = RetryPolicy(timeout=60, retries=3, backoff=0.005)  # a busy machine isn't a stalled server
IMPATIENT = replace(POLICY, timeout=1)
STALLING = {faults.stall, faults.silence}
KNOWN = dict(size=len(CONTENT), sha1=hashlib.sha1(CONTENT).hexdigest())


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/a.bin": CONTENT}) as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    return f"{server.url}/a.bin"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def refused(url: str, folder: Path, policy: RetryPolicy = POLICY, **facts) -> str:
    """The error of a file that can't be downloaded; nothing is under its name."""
    with pytest.raises(DownloadError) as caught:
        download(url, folder / "a.bin", policy=policy, **facts)
    assert not (folder / "a.bin").exists()
    assert caught.value.where == url
    return str(caught.value)


def test_good(server: Server, url: str, tmp_path: Path):
    download(url, tmp_path / "new" / "a.bin", policy=POLICY, **KNOWN)
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.bin"]
    assert server.asked == [None]


RECOVERED = {
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
@pytest.mark.parametrize("name", RECOVERED)
def test_recovered(name: str, known: bool, server: Server, url: str, tmp_path: Path):
    if name == ("announces more" if known else "a wrong byte in the rest"):
        pytest.skip("refused at once if the size is known; only a checksum tells the wrong byte")
    server.faults = list(RECOVERED[name])
    policy = IMPATIENT if STALLING & set(server.faults) else POLICY
    download(url, tmp_path / "a.bin", policy=policy, **(KNOWN if known else {}))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]


def test_resumes(server: Server, url: str, tmp_path: Path):
    server.faults = [faults.cut, faults.cut]
    download(url, tmp_path / "a.bin", policy=POLICY)
    assert server.asked == [None, "bytes=150000-", "bytes=225000-"]


def test_another_process_resumes(server: Server, url: str, tmp_path: Path):
    server.always = faults.cut
    once = replace(POLICY, retries=0)
    assert "what was received is kept" in refused(url, tmp_path, once)
    server.always = None
    download(url, tmp_path / "a.bin", policy=once)
    assert server.asked == [None, "bytes=150000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_shared_target(server: Server, url: str, tmp_path: Path, capsys):
    """Nothing of another process's partial file is taken, and none is left."""
    (tmp_path / "a.bin.part").write_bytes(b"another's")
    server.faults = [faults.cut]
    download(url, tmp_path / "a.bin", policy=POLICY, shared=True)
    assert server.asked == [None, "bytes=150000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    (tmp_path / "a.bin").unlink()
    server.always = faults.cut
    refused(url, tmp_path, replace(POLICY, retries=0), shared=True)
    assert names(tmp_path) == ["a.bin.part"]
    assert capsys.readouterr().err.startswith("a.bin: ")  # not the partial file's name


def test_server_without_ranges(server: Server, url: str, tmp_path: Path):
    server.ranges = False
    server.faults = [faults.cut]
    download(url, tmp_path / "a.bin", policy=POLICY, **KNOWN)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("then", [faults.Handler.give, faults.heedless, faults.cut])
@pytest.mark.parametrize("length", [300_000, 200_000, 100_000])
def test_file_that_changes(then, length: int, server: Server, url: str, tmp_path: Path):
    """The new one is downloaded from its beginning; where another is known, it is refused."""
    server.faults = [faults.cut, faults.changes(OTHER[:length], then)]
    download(url, tmp_path / "a.bin", policy=POLICY)
    assert (tmp_path / "a.bin").read_bytes() == OTHER[:length]
    (tmp_path / "a.bin").unlink()
    server.files["/a.bin"] = CONTENT
    server.faults = [faults.cut, faults.changes(OTHER[:length], then)]
    assert "another file, and was not kept" in refused(url, tmp_path, **KNOWN)


def test_new_file_in_place_of_the_rest(server: Server, url: str, tmp_path: Path):
    """A server that heeds If-Range sends it at once."""
    server.faults = [faults.cut, faults.changes(OTHER, faults.Handler.give)]
    download(url, tmp_path / "a.bin", policy=POLICY)
    assert (tmp_path / "a.bin").read_bytes() == OTHER
    assert server.asked == [None, "bytes=150000-"]


def test_page_in_place_of_the_rest(server: Server, url: str, tmp_path: Path):
    """A network that asks to log in costs nothing of what was received."""
    server.faults = [faults.cut, faults.page]
    assert "it has 26 bytes, not 300000" in refused(url, tmp_path, **KNOWN)
    download(url, tmp_path / "a.bin", policy=POLICY, **KNOWN)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=150000-", "bytes=150000-"]


def test_no_validator(server: Server, url: str, tmp_path: Path):
    """Nothing tells one file from the next: a partial file is of no use."""
    server.tag = None
    server.faults = [faults.cut, faults.changes(OTHER, faults.cut)]
    download(url, tmp_path / "a.bin", policy=POLICY)
    assert server.asked[:2] == [None, None]
    assert (tmp_path / "a.bin").read_bytes() == OTHER


REFUSED = {
    "not there": (faults.status(404), "404 Not Found): check the URL"),
    "forbidden": (faults.status(403), "403 Forbidden"),
    "busy for hours": (faults.status(503, Retry_After="9999"), "asks to wait 9999 seconds"),
    "always busy": (faults.status(503), "503 Service Unavailable; 4 times in a row"),
    "always silent": (faults.silence, "no data for 1 s; 4 times in a row"),
    "always nonsense": (faults.nonsense, "4 times in a row"),
    "a wrong byte": (faults.wrong_byte, "its SHA-1 isn't"),
    "a page": (faults.page, "it has 26 bytes, not 300000"),
    "announces more": (faults.too_long, "it has 301000 bytes, not 300000"),
    "announces less": (faults.too_short, "it has 299000 bytes, not 300000"),
    "length not said": (faults.no_length, "150000 bytes came, not 300000"),
    "words for a terminal": (faults.status(404, "\x1b[2Jgone"), r"404 \x1b[2Jgone"),
    "to a file": (faults.redirect("file:///etc/passwd"), "adapters were found for 'file:///etc"),
    "to FTP": (faults.redirect("ftp://127.0.0.1/a.bin"), "adapters were found for 'ftp://"),
    "compressed": (faults.status(200, Content_Encoding="gzip"), "compresses what it sends"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, server: Server, url: str, tmp_path: Path):
    server.always, reason = REFUSED[name]
    policy = IMPATIENT if server.always in STALLING else POLICY
    said = refused(url, tmp_path, policy, **KNOWN)
    assert reason in said and said.isprintable()
    assert not names(tmp_path), "nothing of it may be of use"


def test_redirects(server: Server, tmp_path: Path):
    server.files["/b.bin"] = b""
    server.faults = [faults.redirect(f"{server.url}/a.bin")]
    download(f"{server.url}/b.bin", tmp_path / "a.bin", policy=POLICY)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_endless_redirects(server: Server, url: str, tmp_path: Path):
    server.always = faults.redirect(url)
    assert "Exceeded 30 redirects" in refused(url, tmp_path)


def test_redirect_from_https_to_http(server: Server, tmp_path: Path, monkeypatch):
    """The answer to the https:// URL is made here; no certificate is needed."""

    class Redirects(requests.adapters.BaseAdapter):
        def send(self, request, **options) -> requests.Response:
            response = requests.Response()
            response.status_code, response.url, response.request = 302, request.url, request
            response.headers["Location"] = f"{server.url}/a.bin"
            response.raw = None
            response._content = b""
            return response

        def close(self) -> None:
            pass

    start = requests.Session.__init__

    def session(self: requests.Session) -> None:
        start(self)
        self.mount("https://", Redirects())

    monkeypatch.setattr(requests.Session, "__init__", session)
    said = refused("https://example.org/a.bin", tmp_path)
    assert f"adapters were found for '{server.url}/a.bin'" in said
    assert not server.asked


def test_waits_as_long_as_the_server_asks(server: Server, url: str, tmp_path: Path):
    when = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.faults = [faults.status(503, Retry_After=when)]
    began = time.monotonic()
    download(url, tmp_path / "a.bin", policy=POLICY)
    assert time.monotonic() - began > 0.9


def test_no_server(tmp_path: Path):
    said = refused("http://127.0.0.1:9/a.bin", tmp_path)
    assert "Connection refused; 4 times in a row" in said


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.bin", "http://", "a.bin", "http://[/a.bin"])
def test_no_url(url: str, tmp_path: Path):
    refused(url, tmp_path)


def test_verified_before_it_has_its_name(url: str, tmp_path: Path):
    def verify(path: Path) -> None:
        assert path.read_bytes() == CONTENT and not (tmp_path / "a.bin").exists()
        raise UserError("not this one")

    with pytest.raises(UserError, match="not this one"):
        download(url, tmp_path / "a.bin", verify=verify, policy=POLICY)
    assert not names(tmp_path)


def test_longest_file(server: Server, url: str, tmp_path: Path, monkeypatch):
    """The limit is one of files of unknown size: COCO's largest archive is longer."""
    monkeypatch.setattr("mmpvt.utils.download.MAX_BYTES", 100_000)
    download(url, tmp_path / "b.bin", policy=POLICY, **KNOWN)
    assert (tmp_path / "b.bin").read_bytes() == CONTENT
    server.always = faults.no_length
    assert "longer than 100000 bytes" in refused(url, tmp_path)


@pytest.mark.parametrize("junk", [b"junk", bytes(300_000), bytes(400_000)])
def test_junk_in_place_of_a_partial_file(junk: bytes, url: str, tmp_path: Path):
    (tmp_path / "a.bin.part").write_bytes(junk)
    (tmp_path / "a.bin.part.etag").write_bytes(b"\xff\xfe")
    download(url, tmp_path / "a.bin", policy=POLICY, **KNOWN)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_folder_that_can_not_be_written(url: str, tmp_path: Path):
    (tmp_path / "a.bin.part.etag").mkdir()
    with pytest.raises(OutputError, match="can't be written"):
        download(url, tmp_path / "a.bin", policy=POLICY, **KNOWN)
