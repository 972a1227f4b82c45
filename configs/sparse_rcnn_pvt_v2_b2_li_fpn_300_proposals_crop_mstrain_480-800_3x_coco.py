_base_ = "sparse_rcnn_pvt_v2_b2_fpn_300_proposals_crop_mstrain_480-800_3x_coco.py"
model = dict(
    backbone=dict(
        arch="b2_li",
        init_cfg=dict(
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b2_li.pth",
        ),
    ),
)
# 8 GPUs of two images each
optim_wrapper = dict(optimizer=dict(lr=2.5e-5))
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)
