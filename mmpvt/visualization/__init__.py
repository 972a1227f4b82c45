"""Boxes, masks, label maps and heat maps drawn on images."""
