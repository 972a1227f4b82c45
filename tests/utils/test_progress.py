"""How far work has come, in a log."""

from __future__ import annotations

import pytest

from mmpvt.utils import progress


def test_lines_in_a_log(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "PAUSE", 0)
    with progress.progress("a.zip", 4_000_000, in_bytes=True, done=1_000_000) as advance:
        advance(1_000_000)
        advance(3_999_999)
    with progress.progress("b.zip", None, in_bytes=True) as advance:
        advance(999)
    with progress.progress("images", 10) as advance:
        advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a.zip: 1.0 MB of 4.0 MB"
    assert lines[1] == "a.zip: 4.0 MB of 4.0 MB, 0:00:00 left"
    assert lines[2] == "b.zip: 999 bytes"
    assert lines[3] == "images: 10 of 10, 0:00:00 left"


def test_few_lines(capsys: pytest.CaptureFixture):
    with progress.progress("images", 1000) as advance:
        for i in range(1000):
            advance(i)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1500, "1.5 kB"), (19_336_861_798, "19.3 GB"), (5e12, "5.0 TB")],
)
def test_sizes(count: float, said: str):
    assert progress.size(count) == said
