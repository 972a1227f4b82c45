_base_ = "_base_/retinanet_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        arch="large",
        drop_path_rate=0.0,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_large.pth",
        ),
    ),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale="dynamic")
