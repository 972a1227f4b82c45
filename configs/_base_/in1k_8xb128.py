# ImageNet as the PVT papers train on it: 300 epochs, AdamW, batch 8 x 128, 224x224 pixels.
_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py",  # RandAugment, random erasing
    "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py",  # 5e-4 x batch / 512
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmpvt.PyramidVisionTransformerV2", out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=512,
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)

train_pipeline = [
    *_base_.train_pipeline[:-2],
    # published, but of no effect in timm, with which the papers' models were trained: it takes
    # either RandAugment or this
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4),
    *_base_.train_pipeline[-2:],  # random erasing
]
train_dataloader = dict(
    batch_size=128,
    sampler=dict(type="RepeatAugSampler", shuffle=True, num_repeats=3),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader

optim_wrapper = dict(
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, T_max=295, begin=5, end=300),
]
