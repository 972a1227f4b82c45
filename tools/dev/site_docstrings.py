"""Has mkdocstrings read the docstrings here, whose references are reStructuredText's roles."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([^`]+)`")


class RolesAsCode(griffe.Extension):
    """Writes ``:func:`name``` as code, and ``Example:`` by the section's name, in the plural."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        self._rewrite(obj)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._rewrite(pkg)  # on_object isn't asked about it

    def _rewrite(self, obj: griffe.Object) -> None:
        if obj.docstring:
            text = ROLE.sub(r"``\1``", obj.docstring.value)
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE
            )
