# A small Trans2Seg that learns the shapes from scratch in minutes, on a CPU.
_base_ = "fpn_pvt_v2_b0_shapes.py"
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type="mmpvt.Trans2SegHead",
        in_channels=[32, 256],
        in_index=[0, 3],
        num_classes=6,
        embed_dims=64,
        num_heads=4,
        encoder_depth=2,
        decoder_depth=2,
        grid_size=4,
    ),
)
