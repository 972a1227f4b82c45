_base_ = "_base_/pvt_in1k_8xb128.py"
model = dict(backbone=dict(arch="small"))
