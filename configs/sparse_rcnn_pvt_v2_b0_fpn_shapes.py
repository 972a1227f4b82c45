# A small Sparse R-CNN that learns the shapes from scratch in minutes, on a CPU.
_base_ = [
    "sparse_rcnn_pvt_v2_b2_fpn_300_proposals_crop_mstrain_480-800_3x_coco.py",
    "_base_/shapes_parts.py",
]
model = dict(
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2", arch="b0", drop_path_rate=0.0, init_cfg=None
    ),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64),
    rpn_head=dict(num_proposals=40, proposal_feature_channel=64),
    roi_head=dict(
        num_stages=3,
        stage_loss_weights=[1, 1, 1],
        proposal_feature_channel=64,
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=[
            dict(
                head,
                num_classes=6,
                in_channels=64,
                feedforward_channels=256,
                dynamic_conv_cfg=dict(
                    head.dynamic_conv_cfg, in_channels=64, feat_channels=16, out_channels=64
                ),
            )
            for head in _base_.model.roi_head.bbox_head[:3]
        ],
    ),
    train_cfg=dict(rcnn=_base_.model.train_cfg.rcnn[:3]),
    test_cfg=dict(rcnn=dict(max_per_img=40)),
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
