# A small Trans2Seg that learns the shapes from scratch in minutes, on a CPU.
_base_ = "fpn_pvt_v2_b0_shapes.py"
# Stages 1 and 3: of such small pictures, stage 4 has a mere 5x5 positions.
model = dict(
    backbone=dict(out_indices=(0, 2)),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type="mmpvt.Trans2SegHead",
        in_channels=[32, 160],
        in_index=[0, 1],
        num_classes=6,
        embed_dims=64,
        num_heads=4,
        encoder_depth=2,
        decoder_depth=2,
        grid_size=10,
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
