"""Conventions of the field, and names, that several rooms share."""

# Of annotated images; voc0 and voc1 are voc with coordinates that count from 0 or 1, where the data
# doesn't tell.
FORMATS = ("coco", "voc", "voc0", "voc1", "yolo", "labelme", "cvat", "masks", "folders")
WRITTEN_FORMATS = ("coco", "voc", "yolo", "masks")
LAYOUTS = ("mmpvt", "published", "mmdet", "timm", "huggingface")  # of checkpoints to write
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
DOWNLOADS = ("coco", "ade20k", "weights", "detectors")
IGNORE_LABEL = 255  # of label maps: pixels of no class, which no loss and no score counts
SCORE = 0.3  # instances below are not shown, unless asked for
