# A small Semantic FPN that learns the shapes from scratch in minutes, on a CPU.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "_base_/shapes_segmentation.py",
    "mmseg::_base_/schedules/schedule_40k.py",
    "mmseg::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    pretrained=None,
    backbone=dict(
        _delete_=True, type="mmpvt.PyramidVisionTransformerV2", arch="b0", drop_path_rate=0.0
    ),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, num_classes=6),
)

iterations = 630  # 10 epochs
train_cfg = dict(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(
    _delete_=True,
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=iterations, end=iterations, by_epoch=False),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=iterations))
