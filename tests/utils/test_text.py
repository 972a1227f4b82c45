"""Names as text that can be printed and written anywhere."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from helpers import environment
from mmpvt.utils.progress import progress
from mmpvt.utils.text import counted, encodable, printable, to_json

WINDOWS = os.fsdecode("café.jpg".encode("cp1252"))  # as a zip made on Windows holds it


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (WINDOWS, r"caf\xe9.jpg"),
        ("a\ud800b", r"a\ud800b"),
        ("\x1b]0;title\x07\x9b2J", r"\x1b]0;title\x07\x9b2J"),
        ("a\r\n\terror: b", r"a\r\n\terror: b"),
        ("a\u2028b\u202egpj.exe\u2066", r"a\u2028b\u202egpj.exe\u2066"),
        ("été 猫 🐈 e\u0301", "été 猫 🐈 e\u0301"),
        (5, "5"),
    ],
)
def test_printable(name: object, shown: str):
    assert printable(name) == shown == printable(shown)


def test_json_is_valid_and_keeps_what_it_can():
    names = [WINDOWS, "a\ud800\\ud800", 'é "\n\x1b\\']
    written = to_json({WINDOWS: names})
    written.decode("utf-8")  # strictly
    assert b"\\ud800" not in written.replace(b"\\\\ud800", b"")  # not as an escape of JSON's
    read = json.loads(written)
    assert read == {r"caf\xe9.jpg": [r"caf\xe9.jpg", r"a\ud800\ud800", 'é "\n\x1b\\']}
    assert encodable('é "\n\x1b\\') == 'é "\n\x1b\\'


LOGGING = """
import logging, sys
from mmpvt.utils.text import print_safely
print_safely()
logging.raiseExceptions = True
logging.basicConfig(handlers=[logging.FileHandler(sys.argv[1]), logging.StreamHandler(sys.stdout)])
logging.warning("table\\n\\t%s", "a\\x1b[2J\\u202e\\udce9 \\u732b")
print("\\u732b", "\\udce9")
"""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_logs_and_prints_under_a_strict_encoding(encoding: str, tmp_path):
    log = tmp_path / "log.txt"
    variables = dict(LC_ALL="C", PYTHONUTF8=str(int(encoding == "utf-8")))
    variables.update(PYTHONIOENCODING=f"{encoding}:strict")
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, log],
        env={**environment(), **variables},
        capture_output=True,
        check=True,
    )
    assert not done.stderr
    cat = "猫" if encoding == "utf-8" else r"\u732b"
    expected = f"WARNING:root:table\n\ta\\x1b[2J\\u202e\\xe9 {cat}\n"
    assert done.stdout.decode(encoding).startswith(expected)
    assert log.read_bytes().decode(encoding) == expected


PRINTING = """
import sys
from mmpvt.utils.text import print_safely
print_safely(), print_safely()
print("there", flush=True)
sys.stdin.readline()
print("gone", flush=True)
print("gone", file=sys.stderr)
open(sys.argv[1], "w").write("ended")
"""


@pytest.mark.skipif(os.name != "posix", reason="of POSIX's terminals")
def test_a_terminal_that_is_closed_ends_no_run(tmp_path):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTING, tmp_path / "file"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    assert os.read(ours, 1) == b"t"
    os.close(ours)
    process.communicate(b"\n")
    assert process.returncode == 0 and (tmp_path / "file").read_text() == "ended"


def test_progress_shows_a_name_as_it_is(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress(f"[bold]{WINDOWS}\x1b]0;x\x07", 2) as advance:
        advance(2)
    shown = stream.getvalue()
    assert r"[bold]caf\xe9.jpg\x1b]0;x\x07" in shown and "\x1b]0" not in shown


def test_one_and_several():
    assert counted(1, "image") == "1 image" and counted(1200, "image") == "1,200 images"
    assert counted(0, "class", "classes") == "0 classes"
