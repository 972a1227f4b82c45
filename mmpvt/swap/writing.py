"""A swapped config as a file: its base, and the lines that differ."""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterator, Mapping

from mmengine.config import Config

from mmpvt.errors import SwapError, UserError

_WIDTH = 100
_MISSING = object()


def as_text(base: Config, swapped: Config, base_name: str, title: str) -> str:
    """The text of a config file.

    Args:
        base (Config): as it was read.
        swapped (Config): what the file is to give.
        base_name (str): how the file names its base: a path relative to its folder, or
            ``mmdet::…``.
        title (str): its first line, a comment.

    Returns:
        str: the file's content.

    Raises:
        SwapError: the base is written in MMEngine's new style, which such a file can't inherit.
    """
    if base.filename and Config._is_lazy_import(base.filename):
        raise SwapError(
            f"{base.filename} is written with read_base or imports, which MMEngine lets no plain "
            "config inherit",
            hint=f"train it with tools/train.py {UserError.name_setting('backbone')}, which needs "
            "no file",
        )
    before, after = base.to_dict(), swapped.to_dict()
    order = dict.fromkeys(name for name in ("custom_imports", "model", *after) if name in after)
    changed, statements = _differences(before, {name: after[name] for name in order}, "_base_")
    lines = [f"# {title}", f"_base_ = {_literal(base_name, 0)}"]
    lines += [f"{name} = {_literal(value, len(name) + 3)}" for name, value in changed.items()]
    return "\n".join([*lines, *statements]) + "\n"


def _differences(old: Mapping, new: Mapping, path: str) -> tuple[dict, list[str]]:
    """What a dict that inherits ``old`` has to hold to become ``new``; and statements for what is
    in lists, as MMEngine inherits them only whole."""
    changed: dict = {}
    statements: list[str] = []
    for key, value in new.items():
        before = old.get(key, _MISSING)
        if before == value:
            continue
        if isinstance(value, Mapping):
            if _inherits(before, value):
                inner, more = _differences(before, value, f"{path}.{key}")
                statements += more
                if inner:
                    changed[key] = inner
            else:
                changed[key] = value if before is _MISSING else dict(_delete_=True, **value)
        elif _same_shape(before, value):
            statements += _list_statements(before, value, f"{path}.{key}")
        else:
            changed[key] = value
    return changed, statements


def _inherits(old: object, new: Mapping) -> bool:
    """Whether ``new`` can be written as a difference to ``old``: inheriting removes no entries."""
    if not isinstance(old, Mapping) or old.get("type") != new.get("type"):
        return False
    return not set(old) - set(new)


def _same_shape(old: object, new: object) -> bool:
    """Whether two lists hold as many dicts."""
    return (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new) > 0
        and all(isinstance(item, Mapping) for item in [*old, *new])
    )


def _list_statements(old: list, new: list, path: str) -> Iterator[str]:
    for i, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        where = f"{path}[{i}]"
        changed, statements = _differences(before, after, where)
        for key, value in changed.items():
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if k != "_delete_"}
            target = f"{where}.{key}"
            yield f"{target} = {_literal(value, len(target) + 3)}"
        yield from statements


def _literal(value: object, column: int, indent: int = 0) -> str:
    """``value`` as source, on several lines where one would be too long."""
    if isinstance(value, Mapping) and all(_is_keyword(key) for key in value):
        opening, closing = "dict(", ")"
        items = [(f"{key}=", item) for key, item in value.items()]
    elif isinstance(value, Mapping):
        opening, closing = "{", "}"
        items = [(f"{_literal(key, 0)}: ", item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        items = [("", item) for item in value]
    elif isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    else:
        return repr(value)
    parts = [name + _literal(item, 0) for name, item in items]
    tail = "," if isinstance(value, tuple) and len(value) == 1 else ""
    line = opening + ", ".join(parts) + tail + closing
    holds_a_dict = len(items) > 1 and any(isinstance(item, Mapping) for _, item in items)
    if "\n" not in line and column + len(line) <= _WIDTH and not holds_a_dict:
        return line
    inner = indent + 4
    parts = [name + _literal(item, inner + len(name) + 1, inner) for name, item in items]
    pad = " " * inner
    return opening + "".join(f"\n{pad}{part}," for part in parts) + f"\n{' ' * indent}{closing}"


def _is_keyword(key: object) -> bool:
    """Whether ``dict(key=…)`` can be written."""
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
