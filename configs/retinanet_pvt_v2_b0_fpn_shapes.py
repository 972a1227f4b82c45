# The demo: a small RetinaNet that learns the shapes from scratch in minutes, on a CPU.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "_base_/shapes_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type="mmpvt.PyramidVisionTransformerV2", arch="b0", drop_path_rate=0.0
    ),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64, add_extra_convs=False, num_outs=3),
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(scales_per_octave=2, ratios=[1.0], strides=[8, 16, 32]),
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type="GIoULoss", loss_weight=2.0),
    ),
)

epochs = 10  # of 63 iterations
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=epochs, end=epochs, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=21), checkpoint=dict(max_keep_ckpts=2))
