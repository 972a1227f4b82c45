_base_ = "_base_/in1k_8xb128.py"
model = dict(backbone=dict(arch="b0"), head=dict(in_channels=256))
