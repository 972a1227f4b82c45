_base_ = "_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2",
        arch="b3",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b3.pth",
        ),
    ),
)
