_base_ = "_base_/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(
        arch="medium",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_medium.pth",
        ),
    ),
)
