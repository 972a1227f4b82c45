_base_ = "_base_/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2",
        arch="b4",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b4.pth",
        ),
    ),
)
