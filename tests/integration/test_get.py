"""Downloads of weights and data, as a user starts them, from a server on this machine."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import faulty_server as faults
from faulty_server import Server, serving
from helpers import build_backbone
from mmpvt.checkpoint import load_checkpoint
from mmpvt.datasets.download.catalog import FILES


def saved(content: dict) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def b0() -> bytes:
    """A file as the authors published it: a backbone, and its ImageNet head."""
    tensors = build_backbone("pvt_v2_b0").state_dict()
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    return saved({**tensors, **head})


@pytest.fixture
def server(b0: bytes) -> Iterator[Server]:
    with serving({"/pvt_v2_b0.pth": b0}) as server:
        yield server


def test_weights(server: Server, tmp_path: Path, call_tool):
    server.faults = [faults.cut]
    args = ("weights", "pvt_v2_b0", "--mirror", server.url, "--dir", tmp_path)
    ended = call_tool("get.py", *args)
    assert ended.code == 0, ended.err
    assert "it holds its model's weights" in ended.out
    assert "pvt_v2_b0.pth: connection failed: IncompleteRead" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["pvt_v2_b0.pth"]
    assert "patch_embed1.proj.weight" in load_checkpoint(tmp_path / "pvt_v2_b0.pth")
    assert "pvt_v2_b0.pth is complete" in call_tool("get.py", *args).out
    assert len(server.asked) == 2


def test_where_training_looks(server: Server, tmp_path: Path, call_tool, monkeypatch):
    """The downloaded weights are those that a config's URL stands for."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    ended = call_tool("get.py", "weights", "pvt_v2_b0", "--mirror", server.url)
    assert ended.code == 0, ended.err
    loaded = load_checkpoint("https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b0.pth")
    assert "head.bias" in loaded


def test_detectors(server: Server, b0: bytes, tmp_path: Path, call_tool, monkeypatch):
    """Verified by the digits in their names."""
    known = FILES["detectors"]["pvt_v2_b0"]
    server.files[f"/{known.name}"] = b0
    args = ("detectors", "pvt_v2_b0", "--mirror", server.url, "--dir", tmp_path)
    said = call_tool("get.py", *args).one_sentence()
    assert f"{known.name} (its SHA-256 doesn't begin with 13e9aabe)" in said
    assert not list(tmp_path.iterdir())
    digits = hashlib.sha256(b0).hexdigest()[:8]
    monkeypatch.setitem(FILES["detectors"], "pvt_v2_b0", replace(known, sha256=digits))
    ended = call_tool("get.py", *args)
    assert "its SHA-256 is the published one" in ended.out
    assert [path.name for path in tmp_path.iterdir()] == [known.name]
    assert "detectors has no pvt_large: take some of pvt_tiny, pvt_small" in (
        call_tool("get.py", "detectors", "pvt_large").one_sentence()
    )


@pytest.mark.parametrize("name", ["not weights", "another model", "cut file"])
def test_wrong_weights(name: str, server: Server, b0: bytes, tmp_path: Path, call_tool):
    content, reason = {
        "not weights": (b"<html>Please log in</html>", "can't be read as a checkpoint"),
        "another model": (saved({"a": torch.zeros(3)}), "are not pvt_v2_b0's weights: "),
        "cut file": (b0[:-20_000], "can't be read as a checkpoint"),
    }[name]
    server.files["/pvt_v2_b0.pth"] = content
    args = ("weights", "pvt_v2_b0", "--mirror", server.url, "--dir", tmp_path)
    assert reason in call_tool("get.py", *args).one_sentence()
    assert not list(tmp_path.iterdir())


def test_mistakes(server: Server, tmp_path: Path, call_tool):
    def said(*args: object) -> str:
        sentence = call_tool("get.py", *args).one_sentence()
        assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("*.zip"))
        return sentence

    mirror = ("--mirror", server.url, "--dir", tmp_path)
    sentence = said("weights", "pvt_tiny", *mirror)
    assert f"could not download {server.url}/pvt_tiny.pth (404 Not Found): check" in sentence
    assert sentence.endswith("or pass --mirror URL")
    assert "weights has no pvt_v2_b9: take some of pvt_tiny" in said("weights", "pvt_v2_b9")
    assert "coco has no test2017: take some of val2017" in said("coco", "test2017", *mirror)
    assert "begins with https:// or http://" in said("coco", "--mirror", "ftp://x", "--dir", "x")
    server.faults = [faults.status(503)] * 3
    assert "; 1 times in a row" in said("weights", "pvt_v2_b0", *mirror, "--retries", 0)
    assert "; 2 times in a row" in said("weights", "pvt_v2_b0", *mirror, "--tries", 2)  # as it was
    server.files["/val2017.zip"] = b"another"
    sentence = said("coco", "val2017", *mirror)
    assert "val2017.zip (it has 7 bytes, not 815585330): it is damaged or another file" in sentence
    (tmp_path / "file").write_text("precious")
    sentence = said("ade20k", "--dir", tmp_path / "file")
    assert "pass --dir another folder" in sentence
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("seconds", ["0", "nan", "1e300"])
def test_a_timeout_that_no_socket_takes(seconds: str, call_tool):
    ended = call_tool("get.py", "coco", "val2017", "--timeout", seconds)
    assert ended.code == 2 and "Traceback" not in ended.err
    assert f"--timeout: {seconds} is not a number of seconds" in ended.err
