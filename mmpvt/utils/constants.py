"""Conventions of the field, and names, that several rooms share."""

FORMATS = ("coco", "voc", "yolo", "labelme", "cvat", "masks", "folders")  # of annotated images
IGNORE_LABEL = 255  # of label maps: pixels of no class, which no loss and no score counts
SCORE = 0.3  # instances below are not shown, unless asked for
