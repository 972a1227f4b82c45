# Augmentation, schedule and clipping are the base's.
_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py"
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpvt.PyramidVisionTransformerV2",
        arch="b2",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b2.pth",
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# 8 GPUs of one image each
optim_wrapper = dict(optimizer=dict(lr=2.5e-5 / 1.4))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
val_evaluator = dict(type="mmpvt.CocoMetric")
test_evaluator = val_evaluator
