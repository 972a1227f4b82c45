"""Models that no other backbone fits."""

from __future__ import annotations

from mmpvt.errors import UserError
from mmpvt.swap.parts import Part, dicts_within
from mmpvt.swap.pyramids import type_name


def refuse_what_is_no_pyramid(part: Part) -> None:
    """Makes sure that a model reads its backbone as a pyramid.

    Args:
        part (Part): the part whose backbone is to go.

    Raises:
        UserError: a head is a stage of a ResNet, a neck runs a backbone of its own, or what reads
            the backbone is no detector or segmenter.
    """
    if "head" in part.config:  # of a classifier; a detector's and a segmenter's are bbox_head, …
        kind = type_name(part.config) or "the model"
        raise UserError(
            f"{part.path} ({kind}) describes a whole image by one vector, as re-identification "
            "does, and reads no pyramid: there is nothing here for PVT's maps to feed"
        )
    for path, config in part.readers():
        for where, inner in dicts_within(config, path):
            if type_name(inner.get("shared_head") or {}) == "ResLayer":
                raise UserError(
                    f"{where}.shared_head is the ResNet's own last stage, run on each box: it "
                    "can't follow another backbone; take the model's FPN variant"
                )
            own = next((key for key in inner if key.endswith("_backbone")), None)
            if own:
                raise UserError(
                    f"{where} ({type_name(inner)}) feeds its maps to a second backbone, {own}, "
                    "that is built to go on from a ResNet's stages, which PVT has not"
                )
