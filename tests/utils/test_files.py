"""What is read from a disk is a regular file of a bounded size; JSON has a bounded depth."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mmpvt import UserError
from mmpvt.utils.files import MAX_BYTES, MAX_DEPTH, leaves_folder, parse_json, read_bytes


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_regular_files_are_read(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a") == read_bytes(str(tmp_path / "link")) == b"content"
    assert read_bytes(tmp_path / "a", max_bytes=7) == b"content"
    with pytest.raises(UserError, match=r"a is too large: 0\.0 GiB, and .* are the limit"):
        read_bytes(tmp_path / "a", max_bytes=6)


def test_others_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's address has at most 107 bytes
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name, kind in (
            ("pipe", "a pipe"),
            ("link", "a pipe"),
            ("socket", "a socket"),
            ("", "a folder"),
            ("/dev/zero", "a device"),
        ):
            with pytest.raises(UserError, match=f"is not a regular file, but {kind}"):
                read_bytes(tmp_path / name)
    large = sparse(tmp_path / "large.jpg", 6 * 2**30)
    with pytest.raises(UserError, match=r"is too large: 6\.0 GiB, and 1 GiB are the limit"):
        read_bytes(large)
    assert MAX_BYTES == 2**30


@pytest.mark.parametrize("name", ["missing", "a\0b", "\ud800", "n" * 300, "loop"])
def test_names_without_a_file(name: str, tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((OSError, ValueError)) as caught:
        read_bytes(tmp_path / name)
    assert not isinstance(caught.value, UserError)


def test_json_is_pythons():
    text = '{"a": [NaN, -Infinity, 1e999, 1.5, "\\ud800", "\\u00e9 \\"[[", null], "a": [0.1, 2]}'
    assert parse_json(text.encode()) == {"a": [0.1, 2]}
    infinite, half, quoted = parse_json(b'[1e999, "\\ud800", "\\"[[[\\\\"]')
    assert (infinite, half, quoted) == (float("inf"), "\ud800", '"[[[\\')


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
        '["]]]]",' * 200 + "]" * 200,
        '["\\"", ' * 200 + "]" * 200,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    ],
)
def test_deep_json(text: str):
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        parse_json(text.encode())


def test_json_that_only_looks_deep():
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b'["' + b"[" * 1000 + b'"]') == ["[" * 1000]
    assert len(parse_json(b"[" + b"[[1]], " * 1000 + b"1]")) == 1001
    wide = b"[" + b'{"a": "\\\\"}, ' * 1_000_000 + b"0]"  # several chunks, a backslash in each
    assert len(parse_json(wide)) == 1_000_001


@pytest.mark.parametrize("data", [b"", b"{", b"\xef\xbb\xbf{}", b'"\xff"', b"9" * 5000, b"[1,]"])
def test_no_json(data: bytes):
    with pytest.raises(ValueError):
        parse_json(data)


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("1.jpg", False),
        ("part/1.jpg", False),
        ("a..b/1..jpg", False),
        ("...", False),
        ("/dev/zero", True),
        ("../1.jpg", True),
        ("part/../../1.jpg", True),
        ("part\\..\\..\\1.jpg", True),
        ("..", True),
    ],
)
def test_names_that_leave_their_folder(name: str, leaves: bool):
    assert leaves_folder(name) == leaves
