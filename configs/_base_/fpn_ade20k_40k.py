# Semantic FPN as the PVT papers train it on ADE20K: 40,000 iterations, AdamW, batch 8 x 4.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/schedules/schedule_40k.py",
    "mmseg::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type="mmpvt.PyramidVisionTransformer"),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)

test_pipeline = [
    *_base_.test_pipeline[:2],  # the image, its short side at 512
    dict(type="ResizeToMultiple", size_divisor=32),
    *_base_.test_pipeline[2:],  # the label map, as it is
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=1e-4))
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
auto_scale_lr = dict(enable=False, base_batch_size=32)
