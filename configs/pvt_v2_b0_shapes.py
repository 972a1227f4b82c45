# The demo's classifier: a small one that learns the shapes (python tools/make_shapes.py
# data/shapes_classification --classification --train 3200 --val 300 --size 64 80) from scratch in
# minutes, on a CPU.
_base_ = "mmpretrain::_base_/default_runtime.py"
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2", arch="b0", out_indices=(3,), drop_path_rate=0.0
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=6,
        in_channels=256,
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
)
data_preprocessor = dict(
    type="ClsDataPreprocessor",
    num_classes=6,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

_load = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64))]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CustomDataset",
        metainfo=dict(classes=("circle", "square", "triangle", "star", "ring", "cross")),
        data_root="data/shapes_classification/",
        ann_file="meta/train.txt",
        data_prefix=dict(img_path="train"),
        pipeline=[
            *_load,
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        metainfo=dict(classes=("circle", "square", "triangle", "star", "ring", "cross")),
        data_root="data/shapes_classification/",
        ann_file="meta/val.txt",
        data_prefix=dict(img_path="val"),
        pipeline=[*_load, dict(type="PackInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy")
test_evaluator = val_evaluator

epochs = 8  # of 200 iterations
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=4)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05), clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=epochs, end=epochs, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2))
