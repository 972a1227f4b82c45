# Mask R-CNN as the PVT papers train it on COCO: 12 epochs, AdamW, batch 8 x 2.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="mmpvt.PyramidVisionTransformer"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=1e-4))
val_evaluator = dict(type="mmpvt.CocoMetric")
test_evaluator = val_evaluator
