"""The module that answers ``import mmcv._ext`` where mmcv's compiled extension is not there.

``mmcv.ops`` is Python over functions of that extension, and asks for all of their names as it is
imported. So every name is answered here: the operators below by PyTorch code, of the signatures
that ``mmcv.ops`` calls, any other by a function that says, once called, what it would take.
"""

from inspect import isfunction, ismodule

from mmcv.version import __version__ as _mmcv_version

from mmpvt.errors import UserError
from mmpvt.ops import (  # noqa: F401
    carafe,
    deform_attn,
    deform_conv,
    focal_loss,
    masked_conv,
    nms,
    psa_mask,
    roi_align,
    roi_pool,
)

for _module in list(filter(ismodule, globals().values())):  # those above
    for _name, _function in vars(_module).items():
        is_own = isfunction(_function) and _function.__module__ == _module.__name__
        if is_own and not _name.startswith("_"):
            globals()[_name] = _function


def get_compiler_version() -> str:
    """What environment reports print as mmcv's compiler."""
    return "none (mmpvt.ops)"


def get_compiling_cuda_version() -> str:
    """What environment reports print as mmcv's CUDA compiler."""
    return "not available"


def __getattr__(name: str):
    if name.startswith("_"):  # Python's own questions, no operator
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def unavailable(*args, **kwargs):
        raise UserError(
            f"the operator '{name}' is in mmcv's compiled extension only, which this Python lacks: "
            "replace mmcv-lite with the full mmcv (`pip uninstall mmcv-lite`, then `pip install "
            f"openmim` and `mim install mmcv=={_mmcv_version}`), or ask mmpvt's maintainers for it"
        )

    unavailable.__name__ = unavailable.__qualname__ = name
    return unavailable
