"""Crafted checkpoints: none runs code, none fills the memory, each is refused in a sentence."""

from __future__ import annotations

import codecs
import collections
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import runner
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from helpers import environment
from mmpvt import UserError
from mmpvt.checkpoint import load_checkpoint, unwrap
from mmpvt.checkpoint.loading import weights_only
from mmpvt.checkpoint.safety import check_file

HUGE = 10**12  # numbers; 4 TB
LARGE = 5 * 10**9  # numbers; what a careless conversion would really allocate


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


def runs(path: Path) -> Call:
    """What makes a folder beside the checkpoint when it runs."""
    return Call(os.mkdir, str(path.with_suffix(".ran")))


def torch_zip(path: Path, program: bytes, **records: bytes) -> None:
    """A file of today's format with a pickle program of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", b"little")
        for name, content in records.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", content)
        archive.writestr("archive/version", b"3\n")


def code_at_the_top(path: Path) -> None:
    torch.save(runs(path), path)


def code_beside_the_weights(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "optimizer": {"state": runs(path)}}, path)


def code_as_a_key(path: Path) -> None:
    torch.save({"state_dict": {runs(path): torch.ones(1)}}, path)


def code_in_a_hook(path: Path) -> None:
    hooks = collections.OrderedDict(a=runs(path))
    parameter = Call(torch._utils._rebuild_parameter, torch.ones(1), True, hooks)
    torch.save({"state_dict": {"a": parameter}}, path)


def code_in_a_parameter_subclass(path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.extra = runs(path)
    torch.save({"state_dict": {"a": parameter}}, path)


def code_in_an_object_array(path: Path) -> None:
    torch.save({"message_hub": np.array([runs(path)], dtype=object)}, path)


def code_in_the_loss_history(path: Path) -> None:
    history = HistoryBuffer([1.0], [1])
    history._log_history = runs(path)
    torch.save({"message_hub": {"log_scalars": {"loss": history}}}, path)


def code_by_getattr(path: Path) -> None:
    torch.save({"a": Call(getattr, HistoryBuffer.mean, "__globals__")}, path)


def code_by_eval(path: Path) -> None:
    torch.save(
        {"a": Call(eval, f"__import__('os').mkdir({str(path.with_suffix('.ran'))!r})")}, path
    )


def code_in_the_legacy_format(path: Path) -> None:
    torch.save({"a": runs(path)}, path, _use_new_zipfile_serialization=False)


def code_in_the_legacy_header(path: Path) -> None:
    path.write_bytes(pickle.dumps(runs(path), protocol=2) * 4)


def code_in_a_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": runs(path)}))


def code_in_torchscript(path: Path) -> None:
    torch.jit.script(torch.nn.ReLU()).save(str(path))


def code_in_a_second_pickle(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data.pkl", pickle.dumps(runs(path), protocol=2))


def code_under_the_same_name(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        archive.writestr(name, pickle.dumps(runs(path), protocol=2))


def archive_in_an_archive(path: Path) -> None:
    inner = io.BytesIO()
    torch.save({"a": runs(path)}, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/inner.pth", inner.getvalue())


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(50_000_000))


def more_than_the_file(path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the last entry in the directory
    content[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)


def storage_of_terabytes(path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes().replace(b"M\xe8\x03", b"J\xff\xff\xff", 1))


def expanded_to_terabytes(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1).expand(HUGE)}}, path)


def sparse_of_terabytes(path: Path) -> None:
    empty = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0), (HUGE,))
    torch.save({"a": empty}, path)


def tensor_without_data(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.empty(3, device="meta")}}, path)


TO_DEVICE = "_rebuild_device_tensor_from_cpu_tensor"


def conversion_of_gigabytes(path: Path) -> None:
    few = torch.ones(1, dtype=torch.uint8).expand(LARGE)
    convert = getattr(torch._utils, TO_DEVICE)
    torch.save({"a": Call(convert, few, torch.float64, "cpu", 0)}, path)


def constructor_of_gigabytes(path: Path) -> None:
    torch.save({"a": Call(bytearray, LARGE)}, path)


def array_of_terabytes(path: Path) -> None:
    torch.save({"a": Call(np.core.multiarray._reconstruct, np.ndarray, (HUGE,), b"b")}, path)


def number_of_gigabytes(path: Path) -> None:
    dtype = np.dtype(f"V{2**31 - 1}")
    torch.save({"a": Call(np.core.multiarray.scalar, dtype)}, path)


def doubled_sixty_times(path: Path) -> None:
    program = b"\x80\x02c_codecs\nencode\nq\x00"
    value = b"X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R"
    program = b"\x80\x02" + b"c_codecs\nencode\n" * 41 + value
    program += b"X\x09\x00\x00\x00hex_codec\x86R" * 40
    torch_zip(path, program + b".")


def a_dict_within_itself(path: Path) -> None:
    content: dict = {}
    content["state_dict"] = content
    torch.save([content], path)


def nested_a_million_deep(path: Path) -> None:
    torch_zip(path, b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".")


def a_folder(path: Path) -> None:
    path.mkdir()


def an_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def names_that_climb(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../climbed.pkl", pickle.dumps(runs(path), protocol=2))


CRAFTED: list[Callable[[Path], None]] = [
    code_at_the_top,
    code_beside_the_weights,
    code_as_a_key,
    code_in_a_hook,
    code_in_a_parameter_subclass,
    code_in_an_object_array,
    code_in_the_loss_history,
    code_by_getattr,
    code_by_eval,
    code_in_the_legacy_format,
    code_in_the_legacy_header,
    code_in_a_plain_pickle,
    code_in_torchscript,
    code_in_a_second_pickle,
    code_under_the_same_name,
    archive_in_an_archive,
    bomb,
    more_than_the_file,
    storage_of_terabytes,
    expanded_to_terabytes,
    sparse_of_terabytes,
    tensor_without_data,
    # since PyTorch 2.5
    *([conversion_of_gigabytes] if hasattr(torch._utils, TO_DEVICE) else []),
    constructor_of_gigabytes,
    array_of_terabytes,
    number_of_gigabytes,
    doubled_sixty_times,
    a_dict_within_itself,
    nested_a_million_deep,
    a_folder,
    an_endless_device,
    names_that_climb,
]


@pytest.mark.parametrize("craft", CRAFTED, ids=lambda craft: craft.__name__)
def test_refused(craft: Callable[[Path], None], tmp_path: Path):
    folder = tmp_path / "further" / "down"  # for what would climb out of it
    folder.mkdir(parents=True)
    path = folder / "hostile.pth"
    craft(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence and len(sentence) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert set(tmp_path.rglob("*")) == {folder.parent, folder, path}


@pytest.mark.parametrize(
    "craft", [code_at_the_top, code_in_the_legacy_format, code_in_a_plain_pickle, bomb]
)
def test_refused_by_the_runner(craft: Callable[[Path], None], tmp_path: Path):
    """Also under OneDL's MMEngine, which reads anew without protection what was refused."""
    path = tmp_path / "hostile.pth"
    craft(path)
    model = torch.nn.Linear(1, 1)
    for read in (CheckpointLoader.load_checkpoint, partial(runner.load_checkpoint, model)):
        with pytest.raises(UserError):
            read(str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_dict_within_itself_as_weights():
    content: dict = {"a": torch.ones(1)}
    content["state_dict"] = content
    assert "a" in unwrap(content)


def test_config_text_is_not_kept(tmp_path: Path):
    """MMEngine would run it, as Python, when a run is resumed."""
    torch.save({"meta": {"config": "import os", "iter": 1}}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")["meta"] == {"iter": 1}


@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_stores_passes(legacy: bool, tmp_path: Path):
    layer = torch.nn.Linear(3, 2).half()
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3).half()).sum().backward()
    optimizer.step()
    content = {
        "state_dict": layer.state_dict(),
        "parameters": list(layer.parameters()),
        "optimizer": optimizer.state_dict(),
        "types": [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.Size([3])],
        "tied": {"a": layer.weight, "b": layer.weight},
        "text": codecs.encode("bytes", "latin1"),
        "more": (collections.Counter([1]), {1, 2}, 1j, collections.OrderedDict(a=1)),
        "arrays": [np.arange(3), np.float32(2), np.array(True)],
    }
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with weights_only():
        check_file(path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["weight"], layer.weight)
    assert loaded["text"] == b"bytes" and loaded["arrays"][0].tolist() == [0, 1, 2]


def test_memory_of_a_fresh_process(tmp_path: Path):
    """All of them, one after the other, in half a gigabyte beyond what the imports take."""
    for craft in CRAFTED:
        (tmp_path / craft.__name__).mkdir()
        craft(tmp_path / craft.__name__ / "hostile.pth")
    script = (
        "import re, sys, pathlib, mmpvt.checkpoint\n"
        # resource's peak begins with that of the process which started this one
        "status = pathlib.Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])\n"
        "before, refused = peak(), 0\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*/hostile.pth')):\n"
        "    try: mmpvt.checkpoint.load_checkpoint(path)\n"
        "    except mmpvt.UserError: refused += 1\n"
        "print(refused, (peak() - before) // 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    refused, megabytes = map(int, done.stdout.split()[-2:])
    assert refused == len(CRAFTED) >= 20
    assert megabytes < 500
