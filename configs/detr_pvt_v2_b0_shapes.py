# A small DETR that learns the shapes from scratch in minutes, on a CPU.
_base_ = ["detr_pvt_s_8x2_50ep_coco.py", "_base_/shapes_parts.py"]
model = dict(
    num_queries=20,
    backbone=dict(
        type="mmpvt.PyramidVisionTransformerV2",
        arch="b0",
        out_indices=(2,),
        drop_path_rate=0.0,
        init_cfg=None,
    ),
    neck=dict(in_channels=[160], out_channels=128),
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=128, dropout=0.0),
            ffn_cfg=dict(embed_dims=128, feedforward_channels=512, ffn_drop=0.0),
        ),
    ),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=128, dropout=0.0),
            cross_attn_cfg=dict(embed_dims=128, dropout=0.0),
            ffn_cfg=dict(embed_dims=128, feedforward_channels=512, ffn_drop=0.0),
        ),
    ),
    positional_encoding=dict(num_feats=64),
    bbox_head=dict(num_classes=6, embed_dims=128),
    test_cfg=dict(max_per_img=20),
)

train_dataloader = _base_.shapes_train_dataloader
val_dataloader = _base_.shapes_val_dataloader
test_dataloader = val_dataloader
val_evaluator = _base_.shapes_evaluator
test_evaluator = val_evaluator
train_cfg = _base_.shapes_train_cfg
param_scheduler = _base_.shapes_schedule
optim_wrapper = dict(_delete_=True, **_base_.shapes_optim)
default_hooks = _base_.shapes_hooks
