"""Changes to PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import _weights_only_unpickler
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

Global = Callable | tuple[Callable, str]  # a type, or a function and the name that files call it by

_lock = threading.RLock()


@contextmanager
def weights_only_globals(additions: Iterable[Global]) -> Iterator[None]:
    """Has ``torch.load(weights_only=True)`` know other types and functions, for a while.

    ``torch.serialization.safe_globals`` isn't enough: it takes away on leaving what somebody else
    had added too, doesn't replace a function of PyTorch's own list (``_codecs.encode``), and is
    missing from PyTorch 2.4. Here both lists are as before afterwards, and what another thread has
    added meanwhile is kept.

    Args:
        additions (Iterable[Global]): types, and functions with the name that they answer to; they
            come before PyTorch's own and others' of the same name.
    """
    try:
        builtin = _weights_only_unpickler._get_allowed_globals()
    except AttributeError:  # another PyTorch may keep it elsewhere
        builtin = {}
    ours = {name_of_global(added): added for added in additions}
    replaced = {name: builtin[name] for name in ours if name in builtin}
    added = [
        _alias(*known) if isinstance(known, tuple) else known
        for name, known in ours.items()
        if name not in replaced
    ]
    with _lock:
        before = get_safe_globals()
        _set_safe_globals([*(g for g in before if name_of_global(g) not in ours), *added])
        for name in replaced:
            known = ours[name]
            builtin[name] = known[0] if isinstance(known, tuple) else known
        try:
            yield
        finally:
            builtin.update(replaced)
            since = [g for g in get_safe_globals() if g not in added and g not in before]
            _set_safe_globals([*before, *since])


def name_of_global(known: Global) -> str:
    """The name under which files refer to what is on PyTorch's list of safe globals."""
    return known[1] if isinstance(known, tuple) else f"{known.__module__}.{known.__qualname__}"


def _set_safe_globals(known: list) -> None:
    clear_safe_globals()
    add_safe_globals(known)


def _alias(function: Callable, path: str) -> Callable:
    """A function under another name: PyTorch 2.4 and 2.5 take no pairs."""

    def alias(*args: object) -> object:
        return function(*args)

    alias.__module__, _, name = path.rpartition(".")
    alias.__name__ = alias.__qualname__ = name
    return alias
