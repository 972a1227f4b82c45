_base_ = "retinanet_pvt_s_fpn_1x_coco.py"
scale = (1066, 640)
_base_.train_pipeline[2].scale = scale
_base_.test_pipeline[1].scale = scale
train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
