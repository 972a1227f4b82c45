# Parts that turn a detector for COCO into one for the built-in shapes data set (python
# tools/make_shapes.py data/shapes), for configs that already have COCO's data from another base.
_load = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
]
_dataset = dict(type="mmpvt.ShapesDataset", data_root="data/shapes/")
shapes_train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        **_dataset,
        pipeline=[
            *_load,
            dict(type="RandomFlip", prob=[0.3, 0.3], direction=["horizontal", "vertical"]),
            dict(type="PackDetInputs"),
        ],
    ),
)
shapes_val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        **_dataset,
        pipeline=[
            *_load,
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
shapes_evaluator = dict(ann_file="data/shapes/annotations/instances_val2017.json")
# 6 epochs of 63 iterations
shapes_train_cfg = dict(max_epochs=6, val_interval=6)
shapes_schedule = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=6, end=6, convert_to_iter_based=True),
]
shapes_optim = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0)
)
shapes_hooks = dict(logger=dict(interval=21), checkpoint=dict(max_keep_ckpts=2))
