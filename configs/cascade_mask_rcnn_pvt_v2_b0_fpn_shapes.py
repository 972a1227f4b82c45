# A small Cascade Mask R-CNN that learns the shapes from scratch in minutes, on a CPU.
_base_ = ["cascade_mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16.py", "_base_/shapes_parts.py"]
model = dict(
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2", arch="b0", drop_path_rate=0.0, init_cfg=None
    ),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64, num_outs=4),
    rpn_head=dict(
        in_channels=64, feat_channels=64, anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=[
            dict(
                head,
                num_shared_convs=2,
                in_channels=64,
                conv_out_channels=64,
                fc_out_channels=128,
                num_classes=6,
            )
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=6),
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=-1),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=32))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=100)),
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
