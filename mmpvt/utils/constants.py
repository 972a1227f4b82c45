"""Conventions of the field that several rooms share."""

IGNORE_LABEL = 255  # of label maps: pixels of no class, which no loss and no score counts
