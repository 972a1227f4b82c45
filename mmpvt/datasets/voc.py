"""Pascal VOC's annotations, an XML file an image."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from mmpvt.datasets.coco import MAX_NUMBER
from mmpvt.datasets.listed_files import GET_DATA
from mmpvt.errors import DatasetError, UserError
from mmpvt.utils.files import read_bytes


def read_object_names(file: Path) -> list[str]:
    """Reads the class names of an image's objects, and checks what MMDetection reads beside them.

    Raises:
        DatasetError: the file is no XML, or an object has no name or no box of numbers.
        UserError: it is no regular file, or too large.
    """
    try:
        content = ElementTree.fromstring(read_bytes(file))
        _check(content)
        return [str(one.text) for one in content.iterfind("object/name")]
    except UserError:
        raise
    except ElementTree.ParseError as error:
        raise DatasetError(f"the annotation file {file} is no XML ({error})", **GET_DATA) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"the annotation file {file} can't be used: {error}") from error


def _check(content: ElementTree.Element) -> None:
    """Reads what MMDetection's ``XMLDataset`` turns into numbers unchecked."""
    for element in content.iterfind("object"):
        for name in ("name", "bndbox"):
            if element.find(name) is None:
                raise ValueError(f"an object has no {name}")
        for side in ("xmin", "ymin", "xmax", "ymax"):
            if not abs(float(element.findtext(f"bndbox/{side}", ""))) <= MAX_NUMBER:
                raise ValueError(f"a box's {side} is {element.findtext(f'bndbox/{side}')}")
        int(element.findtext("difficult", "0"))
    for side in ("width", "height"):
        if content.find("size") is not None:
            int(content.findtext(f"size/{side}", ""))
