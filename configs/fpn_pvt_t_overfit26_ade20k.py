# A check that all of it learns: overfits the first 26 training images of ADE20K, tested on them.
_base_ = "fpn_pvt_t_ade20k_40k.py"
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(init_cfg=None, drop_path_rate=0.0),
    decode_head=dict(dropout_ratio=0.0),
)

resize = dict(type="Resize", scale=(256, 256), keep_ratio=False)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    resize,
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    resize,
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(indices=26, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        indices=26,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

iterations = 750
train_cfg = dict(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type="PolyLR", eta_min=0.0, power=0.9, begin=40, end=iterations, by_epoch=False),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=iterations))
