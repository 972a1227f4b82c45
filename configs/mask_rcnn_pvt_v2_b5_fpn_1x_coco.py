_base_ = "_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2",
        arch="b5",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b5.pth",
        ),
    ),
)
# 8 GPUs of one image each
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
