_base_ = ["mask_rcnn_pvt_v2_b2_fpn_1x_coco.py", "_base_/mstrain_3x.py"]
train_pipeline = [
    *_base_.train_pipeline[:2],  # the image, its annotations
    *_base_.flip_resize_crop,
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=36)
param_scheduler = _base_.schedule_3x
optim_wrapper = dict(_delete_=True, **_base_.optim_3x)
