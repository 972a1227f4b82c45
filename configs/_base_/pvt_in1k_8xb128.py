# PVT v1, which reads a class token.
_base_ = "in1k_8xb128.py"
model = dict(
    backbone=dict(
        _delete_=True, type="mmpvt.PyramidVisionTransformer", with_cls_token=True, out_indices=(3,)
    ),
    neck=None,
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0))))
