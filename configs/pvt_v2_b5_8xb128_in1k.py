_base_ = "_base_/in1k_8xb128.py"
model = dict(backbone=dict(arch="b5", drop_path_rate=0.3))
optim_wrapper = dict(clip_grad=dict(max_norm=1))
