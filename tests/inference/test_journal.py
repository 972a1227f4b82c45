"""What is kept of an earlier run's lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpvt.engine.launch import Share
from mmpvt.errors import OutputError
from mmpvt.inference.journal import Journal
from mmpvt.inference.sources import find_sources
from mmpvt.utils.outputs import Outputs


def test_images_that_went_leave_no_number_twice(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "abcd":
        (photos / f"{name}.jpg").touch()

    def lines(skipped: str = "") -> list[tuple[int, str]]:
        """Resumes a run and does what it has left."""
        out, (sources, _) = tmp_path / "out", find_sources([photos])
        journal = Journal(Outputs(out), {}, sources, Share(), resume=True)
        for source in (sources[i] for i in journal.todo):
            line = dict(image_id=source.image_id, file_name=source.file_name)
            journal.add(line | (dict(error="") if source.file_name == skipped else {}))
        journal.complete = True
        with journal.closed():
            pass
        found = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
        return [(line["image_id"], line["file_name"]) for line in found]

    assert lines("b.jpg") == [(1, "a.jpg"), (2, "b.jpg"), (3, "c.jpg"), (4, "d.jpg")]
    (photos / "b.jpg").unlink()  # which has no results
    assert lines() == [(1, "a.jpg"), (2, "c.jpg"), (3, "d.jpg")]
    (photos / "a.jpg").unlink()
    with pytest.raises(OutputError, match=r"a\.jpg, which isn't given now, and its image_id 1 is"):
        lines()
    (photos / "a.jpg").touch()
    (photos / "d.jpg").unlink()  # the last: no other has its number
    assert lines() == [(3, "d.jpg"), (1, "a.jpg"), (2, "c.jpg")]
