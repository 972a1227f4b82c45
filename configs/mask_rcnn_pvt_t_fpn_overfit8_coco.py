# A check that all of it learns: overfits 8 training images from scratch, tested on the same 8.
_base_ = "mask_rcnn_pvt_t_fpn_1x_coco.py"
sampler = dict(num=64)  # boxes an image: fewer than published, to run on a CPU
model = dict(
    backbone=dict(init_cfg=None, drop_path_rate=0.0),
    train_cfg=dict(rpn=dict(sampler=dict(num=128)), rcnn=dict(sampler=sampler)),
)

scale = (256, 256)
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=meta_keys),
]
train_dataloader = dict(
    batch_size=2, num_workers=1, dataset=dict(indices=8, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        indices=8,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        test_mode=False,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)  # annotations come with the images: only those 8 count
test_evaluator = val_evaluator

epochs = 110  # of 4 iterations
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=3e-4), clip_grad=dict(max_norm=1.0, norm_type=2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(
        type="CosineAnnealingLR",
        T_max=epochs,
        eta_min=3e-6,
        begin=0,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=epochs, max_keep_ckpts=1))
