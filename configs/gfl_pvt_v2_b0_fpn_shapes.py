# A small GFL that learns the shapes from scratch in minutes, on a CPU.
_base_ = ["gfl_pvt_v2_b2_fpn_3x_mstrain_fp16.py", "_base_/shapes_parts.py"]
model = dict(
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2", arch="b0", drop_path_rate=0.0, init_cfg=None
    ),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64, add_extra_convs=False, num_outs=3),
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(strides=[8, 16, 32]),
    ),
)

train_dataloader = _base_.shapes_train_dataloader
val_dataloader = _base_.shapes_val_dataloader
test_dataloader = val_dataloader
val_evaluator = _base_.shapes_evaluator
test_evaluator = val_evaluator
train_cfg = _base_.shapes_train_cfg
param_scheduler = _base_.shapes_schedule
optim_wrapper = dict(_delete_=True, **_base_.shapes_optim)
default_hooks = _base_.shapes_hooks
