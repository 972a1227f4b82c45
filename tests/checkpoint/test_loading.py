"""Checkpoints are read without running code from them."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from faulty_server import Server, serving
from mmpvt import UserError
from mmpvt.checkpoint import fit_to_model, load_checkpoint
from mmpvt.errors import CheckpointError, CheckpointMismatchError, DownloadError
from mmpvt.models import PyramidVisionTransformerV2

TINY = dict(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))


class Runs:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_what_mmengine_stores(tmp_path: Path):
    hub = MessageHub("test")
    for value in (1.0, 3.0):
        hub.update_scalar("train/loss", value)
    hub.update_info("iter", np.int64(7))
    hub.update_info("curve", np.arange(3.0))
    torch.save({"message_hub": hub.state_dict(), "state_dict": {}}, tmp_path / "a.pth")
    for load in (load_checkpoint, CheckpointLoader.load_checkpoint):
        loaded = load(str(tmp_path / "a.pth"))["message_hub"]
        history = loaded["log_scalars"]["train/loss"]
        assert isinstance(history, HistoryBuffer)
        assert history.statistics("mean") == 2.0
        assert loaded["runtime_info"]["iter"] == 7
        assert loaded["runtime_info"]["curve"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("place", ["top", "meta", "tensor name", "legacy", "plain pickle"])
def test_code_is_refused_and_not_run(place: str, protocol: int, tmp_path: Path):
    target, path = tmp_path / "ran", tmp_path / "a.pth"
    content = {
        "top": Runs(target),
        "meta": {"state_dict": {}, "meta": {"cfg": Runs(target)}},
        "tensor name": {"state_dict": {"a": torch.ones(1), "b": Runs(target)}},
    }.get(place, {"state_dict": Runs(target)})
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(
            content,
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=place != "legacy",
        )
    for load in (load_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(UserError) as caught:
            load(str(path))
        assert str(path) in str(caught.value)
        assert not target.exists()


class Asks:
    """Asks for an attribute of something MMEngine's checkpoints may name."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize("name", ["__init__", "__class__", "register_statistics", "__globals__"])
def test_getattr_knows_four_names_only(name: str, tmp_path: Path):
    owner = HistoryBuffer.min if name == "__globals__" else HistoryBuffer
    torch.save({"a": Asks(owner, name)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"refused: it carries builtins\.getattr"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("size", [0, 10, 1000, -100])
def test_truncated(size: int, tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"a": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"a\.pth can't be read as a checkpoint: it is truncated"):
        load_checkpoint(path)


def test_holds_no_tensors_by_name(tmp_path: Path):
    torch.save([torch.ones(1)], tmp_path / "a.pth")
    with pytest.raises(UserError, match="is no checkpoint: it holds a list"):
        load_checkpoint(tmp_path / "a.pth")


def test_safetensors(tmp_path: Path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    model = PyramidVisionTransformerV2(TINY)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    other = PyramidVisionTransformerV2(
        TINY, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "a.safetensors"))
    )
    other.init_weights()
    assert torch.equal(other.block4[0].attn.kv.weight, model.block4[0].attn.kv.weight)


def test_pretrained_of_another_architecture(tmp_path: Path):
    torch.save(PyramidVisionTransformerV2(TINY).state_dict(), tmp_path / "a.pth")
    other = PyramidVisionTransformerV2(
        dict(TINY, depths=(1, 1, 1, 2)),
        init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "a.pth")),
    )
    with pytest.raises(UserError, match=r"another architecture's: \d+ missing: block4\.1\.norm1"):
        other.init_weights()


def test_errors_are_told_apart_by_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.pth"
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)
    torch.save({"a": Runs(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match="is refused") as caught:
        load_checkpoint(path)
    assert caught.value.where == path
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointMismatchError):
        fit_to_model(load_checkpoint(path), torch.nn.Linear(1, 1))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between a download's attempts
    with pytest.raises(DownloadError) as caught:
        load_checkpoint("http://127.0.0.1:9/a.pth")
    assert caught.value.where == "http://127.0.0.1:9/a.pth"


def test_a_backbone_alone_and_a_whole_model(tmp_path: Path):
    """One conversion, whatever the checkpoint and the model are."""
    model = torch.nn.Module()
    model.backbone = PyramidVisionTransformerV2(TINY)
    model.head = torch.nn.Linear(1, 1)
    alone = model.backbone.state_dict()
    whole = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    assert fit_to_model({"state_dict": whole}, model).keys() == model.state_dict().keys()
    filled = fit_to_model({"model": alone}, model, strict=False)
    assert filled.keys() == {f"backbone.{name}" for name in alone}
    assert fit_to_model({"state_dict": whole}, model.backbone).keys() == alone.keys()


def test_weights_that_are_no_numbers_are_refused():
    """BatchNorm's statistics too; other buffers may be infinite, as observers' are."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model.register_buffer("least", torch.tensor(np.inf))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["0.bias"] += 3e38  # of which the sum is infinite
    assert fit_to_model(state, model).keys() == state.keys()
    for name, value in (("0.weight", np.nan), ("1.running_var", np.inf)):
        state[name].view(-1)[1] = value
    with pytest.raises(CheckpointError, match=r"2 of the checkpoint's 8 tensors.*first.* 0.weight"):
        fit_to_model(state, model, strict=False)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("state_dict", "state_dict_ema"), True),  # timm's
        (("model_ema", "model"), True),  # DeiT's
        (("ema_state_dict", "state_dict"), False),  # MMEngine's, whose averages are in place
    ],
)
def test_averages_beside_the_weights(keys: tuple, said: bool, tmp_path: Path, capsys):
    path, model = tmp_path / "a.pth", torch.nn.Linear(1, 1)
    value = {key: torch.full((1, 1), float("ema" in key)) for key in keys}
    torch.save({key: {"weight": value[key], "bias": torch.ones(1)} for key in keys}, path)
    assert fit_to_model(load_checkpoint(path), model)["weight"] == 0
    assert ("_ema, which aren't used" in "".join(capsys.readouterr())) == said


def test_another_package_s_pvt_keeps_its_class_token():
    """It has the published names, but is no backbone of ours."""
    state = {"patch_embed1.proj.weight": torch.ones(1), "cls_token": torch.ones(1)}
    model = torch.nn.Module()
    model.register_parameter("cls_token", torch.nn.Parameter(torch.ones(1)))
    model.patch_embed1 = torch.nn.Module()
    model.patch_embed1.proj = torch.nn.Module()
    model.patch_embed1.proj.register_parameter("weight", torch.nn.Parameter(torch.ones(1)))
    assert fit_to_model(state, model).keys() == state.keys()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    torch.save({"a": torch.ones(3)}, tmp_path / "served.pth")
    with serving({"/good.pth": (tmp_path / "served.pth").read_bytes()}) as server:
        yield server


def test_downloaded_once_and_kept(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for _ in range(2):
        assert load_checkpoint(f"{server.url}/good.pth")["a"].tolist() == [1, 1, 1]
        server.files["/good.pth"] = b"changed"  # the second time it isn't asked
    assert [path.name for path in (tmp_path / "hub" / "checkpoints").iterdir()] == ["good.pth"]


def test_download_that_fails_leaves_nothing(server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    url = f"{server.url}/no.pth"
    with pytest.raises(DownloadError, match=rf"could not download {url} \(404 Not Found") as caught:
        load_checkpoint(url)
    assert caught.value.instead == ("pretrained", "FILE or none") and caught.value.where == url
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_url_with_a_checksum(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    digest = hashlib.sha256(server.files["/good.pth"]).hexdigest()
    with pytest.raises(DownloadError, match=r"good\.pth \(its SHA-256 doesn't begin with 01234567"):
        load_checkpoint(f"{server.url}/good.pth#sha256=01234567")
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())
    assert load_checkpoint(f"{server.url}/good.pth#sha256={digest[:8]}")
    assert [path.name for path in (tmp_path / "hub" / "checkpoints").iterdir()] == ["good.pth"]
    url = f"{server.url}/good.pth#sha256=01234567"  # another's that ends in this name, say
    assert load_checkpoint(url)
    assert "SHA-256 doesn't begin with 01234567: to download" in "".join(capsys.readouterr())
