"""A package like any other in the process: own files, checkpoint schemes and pickled classes."""

import collections

import torch
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.runner import CheckpointLoader


class Record:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is type(self) and other.value == self.value


class Trusted(Record):
    """It is on PyTorch's list of safe globals."""


class Backend(LocalBackend):
    """Notes what is written."""

    written = []

    def put(self, obj, filepath):
        self.written.append(str(filepath))
        super().put(obj, filepath)


def load_own(filename, map_location=None):
    return {"loaded by": "the plugin", "from": filename}


def register(takes_local_files=False):
    CheckpointLoader.register_scheme("myscheme://", load_own)
    CheckpointLoader.register_scheme(r"(\S+\:)?s3://", load_own, force=True)
    if takes_local_files:
        CheckpointLoader.register_scheme("", load_own, force=True)
    register_backend("plugin", Backend, prefixes="plugin")
    torch.serialization.add_safe_globals([Trusted, collections.deque])


def check(folder, takes_local_files=False):
    """Fails where something of the plugin's doesn't work."""
    for scheme in ("myscheme", "s3"):
        loaded = CheckpointLoader.load_checkpoint(f"{scheme}://a.pth", logger=None)
        assert loaded["loaded by"] == "the plugin", scheme
    if takes_local_files:
        loaded = CheckpointLoader.load_checkpoint(str(folder / "a.pth"), logger=None)
        assert loaded["loaded by"] == "the plugin"

    path = folder / "written"
    for backend, where in ((LocalBackend, path), (Backend, f"plugin://{path}")):
        found = get_file_backend(str(where))
        assert type(found) is backend
        found.put(b"content", path)
        assert found.get(path) == b"content"

    torch.save({"record": Record(1)}, folder / "any.pth")
    assert torch.load(folder / "any.pth", weights_only=False)["record"] == Record(1)
    torch.save({"record": Trusted(2)}, folder / "safe.pth")
    assert {Trusted, collections.deque} <= set(torch.serialization.get_safe_globals())
    loaded = torch.load(folder / "safe.pth", weights_only=True)
    assert loaded["record"] == Trusted(2)
    if not takes_local_files:  # MMEngine's loader, or the one in its place
        loaded = CheckpointLoader.load_checkpoint(str(folder / "safe.pth"), logger=None)
        assert loaded["record"] == Trusted(2)
