"""Bounds to what a checkpoint file may hold, beyond PyTorch's rule that nothing in it is run.

PyTorch's weights-only unpickler calls a list of functions that a file names: none runs code, but
some fill the memory (a tensor's conversion to another type; a codec that doubles its input, as
often as the file asks). A trained checkpoint needs few of them; the others are refused before
anything is read.
"""

from __future__ import annotations

import codecs
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch

from mmpvt.compat.torch import name_of_global
from mmpvt.errors import CheckpointError

PLAIN = {
    "_codecs.encode",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
}
STORAGE_OR_TYPE = re.compile(
    r"torch\.(\w+Storage|storage\.\w+Storage|(bool|u?int|b?float|complex|half|double|long|short)\w*)"
)
LEGACY_PICKLES = 4  # before PyTorch 1.6: a magic number, a version, the machine, the content


def check_file(path: Path) -> None:
    """Looks at a checkpoint file without reading anything into memory.

    Args:
        path (Path): PyTorch's, of today's or of the legacy format.

    Raises:
        CheckpointError: it is compressed, its parts overlap or share a name, or it names a function
            that no weights need.
        Exception: it is damaged, in one of the many ways that a file can be.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(LEGACY_PICKLES):
                _check_names(path, file)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _refused(path, "it is compressed, as no PyTorch version does")
        size = path.stat().st_size
        names = {entry.filename for entry in entries}
        if sum(entry.file_size for entry in entries) > size or len(names) < len(entries):
            raise _refused(path, f"it claims more content than its {size} bytes hold")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as file:
                    _check_names(path, file)


def check_content(path: Path, content: object) -> None:
    """Looks at what a checkpoint held for tensors that are larger than their file.

    Args:
        path (Path): the file.
        content (object): what it held.

    Raises:
        CheckpointError: there is such a tensor, or one without data.
    """
    limit = path.stat().st_size
    for name, value in _walk(content):
        if isinstance(value, torch.Tensor):
            shape = "x".join(map(str, value.shape))
            if value.is_meta or value.layout != torch.strided or value.is_quantized:
                raise _refused(path, f"its {name} is no dense tensor of numbers")
            if value.numel() * value.element_size() > limit:
                raise _refused(
                    path,
                    f"its {name} claims {shape} numbers, more than the file's {limit} bytes hold",
                )
        elif isinstance(value, np.ndarray) and value.nbytes > limit:
            raise _refused(path, f"its {name} is larger than the file")


def encode_text(text: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    """``_codecs.encode`` for codecs of text alone, none of which takes its own result."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL _codecs.encode by {encoding!r}")
    return codecs.encode(text, encoding, errors)


def empty_array(kind: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    """NumPy's ``_reconstruct`` for the empty array alone that its pickles begin with."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy._reconstruct of {shape}")
    return np.empty(shape, np.int8)


def number(dtype: np.dtype, value: bytes) -> np.generic:
    """NumPy's ``scalar`` for numbers alone: one from its bytes."""
    if dtype.kind not in "biufc" or len(value) != dtype.itemsize:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.scalar of {dtype}")
    return np.frombuffer(value, dtype)[0]


def _check_names(path: Path, file: IO[bytes]) -> None:
    """Checks what a pickle refers to. The names in newer opcodes PyTorch's unpickler refuses."""
    allowed = PLAIN | {name_of_global(known) for known in torch.serialization.get_safe_globals()}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            name = str(argument).replace("__builtin__ ", "builtins ").replace(" ", ".")
            if name not in allowed and not STORAGE_OR_TYPE.fullmatch(name):
                raise carries_code(path, name)


def carries_code(source: str | os.PathLike, name: str) -> CheckpointError:
    """The error for a file that names a function which no weights need."""
    return CheckpointError(
        f"{os.fspath(source)} is refused: it carries {name}, which is neither a weight nor a plain "
        "value, and nothing of it was run",
        where=source,
    )


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is refused: {reason}", where=path)


def _walk(content: object) -> Iterator[tuple[str, object]]:
    """Every value within containers, once each: a file can hold a dict within itself."""
    seen = set()
    rest = [("content", content)]
    while rest:
        name, value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            rest.extend((str(key), inner) for key, inner in value.items())
        elif isinstance(value, list | tuple | set):
            rest.extend((name, inner) for inner in value)
        else:
            yield name, value
