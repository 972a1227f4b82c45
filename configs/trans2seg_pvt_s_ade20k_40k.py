_base_ = "fpn_pvt_s_ade20k_40k.py"
model = dict(
    neck=None,  # the head reads the backbone's first and last map as they are
    decode_head=dict(
        _delete_=True,
        type="mmpvt.Trans2SegHead",
        in_channels=[64, 512],
        in_index=[0, 3],
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
    ),
)
