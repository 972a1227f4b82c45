"""What the interpreter runs at its start where mmpvt is installed, by ``mmpvt.pth``.

MMDetection's and MMSegmentation's own tools import ``mmcv.ops`` before they read a config, and with
it a ``custom_imports`` of mmpvt. With mmcv-lite that ends in ``No module named 'mmcv._ext'``. So a
finder waits for that name behind all others, and imports mmpvt, which puts its operators there.
Until then it costs a comparison; nothing is imported here, as every start of Python runs it.
"""

import sys


class MmcvExtFinder:
    """Answers ``import mmcv._ext`` where no other finder does and mmpvt isn't imported yet."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "mmcv._ext" or "mmpvt" in sys.modules:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, MmcvExtFinder, origin="mmpvt.ops.extension")

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        del sys.modules[module.__name__]  # mmpvt looks for mmcv's own, and then takes its place
        import mmpvt  # noqa: F401


sys.meta_path.append(MmcvExtFinder)
