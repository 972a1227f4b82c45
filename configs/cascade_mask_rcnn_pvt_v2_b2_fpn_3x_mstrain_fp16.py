_base_ = ["mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", "_base_/mstrain_3x.py"]
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
    roi_head=dict(
        # what is not here, such as the targets' standard deviations, is the base's
        bbox_head=[
            dict(
                head,
                type="ConvFCBBoxHead",
                num_shared_convs=4,
                num_shared_fcs=1,
                conv_out_channels=256,
                norm_cfg=dict(type="SyncBN", requires_grad=True),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for head in _base_.model.roi_head.bbox_head
        ]
    ),
)

train_pipeline = [
    *_base_.train_pipeline[:2],  # the image, its annotations
    *_base_.flip_resize_crop,
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=36)
param_scheduler = _base_.schedule_3x
optim_wrapper = dict(_delete_=True, type="AmpOptimWrapper", loss_scale="dynamic", **_base_.optim_3x)
val_evaluator = dict(type="mmpvt.CocoMetric")
test_evaluator = val_evaluator
