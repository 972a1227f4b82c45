_base_ = "_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        arch="small",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_small.pth",
        ),
    ),
)
