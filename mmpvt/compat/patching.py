"""How a change to another package is made, and undone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Change = Callable[[ModuleType, ExitStack], None]


def replace_attribute(owner: object, name: str, value: object, undo: ExitStack) -> None:
    """Sets an attribute; undone unless somebody else has set it since."""

    def restore() -> None:
        if getattr(owner, name) is value:
            setattr(owner, name, before)

    before = getattr(owner, name)
    setattr(owner, name, value)
    undo.callback(restore)


def after_import(name: str, change: Change, undo: ExitStack) -> None:
    """Calls ``change`` on a module once it is imported, which may be never; at once if it is."""
    if name in sys.modules:
        change(sys.modules[name], undo)
        return
    finder = _AfterImport(name, change, undo)
    sys.meta_path.insert(0, finder)
    undo.callback(finder.leave)


class _AfterImport(MetaPathFinder, Loader):
    """Finds one module as the finders after it do, and changes it when it has run."""

    def __init__(self, name: str, change: Change, undo: ExitStack) -> None:
        self.name, self.change, self.undo = name, change, undo

    def leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != self.name:
            return None
        self.leave()
        spec = util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.spec, self.loader, spec.loader = spec, spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.spec.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.change(module, self.undo)
