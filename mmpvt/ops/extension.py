"""The module that answers ``import mmcv._ext`` where mmcv's compiled extension is not there.

``mmcv.ops`` is Python over functions of that extension, and asks for all of their names as it is
imported. So every name is answered here: the operators below by PyTorch code, of the signatures
that ``mmcv.ops`` calls, any other by a function that says, once called, what it would take.
"""

from mmcv.version import __version__ as _mmcv_version

from mmpvt.errors import UserError
from mmpvt.ops.carafe import carafe_backward, carafe_forward
from mmpvt.ops.deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from mmpvt.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmpvt.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmpvt.ops.masked_conv import masked_col2im_forward, masked_im2col_forward
from mmpvt.ops.nms import nms, nms_match, softnms
from mmpvt.ops.psa_mask import psamask_backward, psamask_forward
from mmpvt.ops.roi_align import roi_align_backward, roi_align_forward
from mmpvt.ops.roi_pool import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    roi_pool_backward,
    roi_pool_forward,
)

__all__ = [
    "carafe_backward",
    "carafe_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "psamask_backward",
    "psamask_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


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
