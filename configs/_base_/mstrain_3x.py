# PVT v2's longer training: 36 epochs at many scales. These are parts that a config takes, because
# two bases of one config may not both hold a setting.
_resize = dict(
    type="RandomChoiceResize", scales=[(s, 1333) for s in range(480, 801, 32)], keep_ratio=True
)
_crop = [
    dict(type="RandomChoiceResize", scales=[(s, 1333) for s in (400, 500, 600)], keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute_range",
        crop_size=(384, 600),
        allow_negative_crop=True,
    ),
]
flip_resize_crop = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[_resize], [*_crop, _resize]]),
]
schedule_3x = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
optim_3x = dict(
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
