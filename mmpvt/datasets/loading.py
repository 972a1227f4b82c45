"""Loading images from files that may be broken."""

from __future__ import annotations

import cv2
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile

from mmpvt.errors import UserError
from mmpvt.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's transform, saying which file it is that can't be read."""

    def transform(self, results: dict) -> dict | None:
        """Reads ``results['img_path']``.

        Raises:
            UserError: the file is missing or no readable image.
        """
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise UserError(f"the image {results['img_path']} is missing") from error
        except (OSError, ValueError, AssertionError, AttributeError, cv2.error) as error:
            raise UserError(
                f"{results['img_path']} can't be read as an image: the file is empty, truncated "
                "or of another kind; replace it, or take it out of the annotations"
            ) from error
