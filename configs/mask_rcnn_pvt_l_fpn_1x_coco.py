_base_ = "_base_/mask_rcnn_fpn_1x_coco.py"
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
# 8 GPUs of one image each
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
