"""What there is to get, where it lies, and by what it is recognised.

Sizes and checksums of the data sets' archives are those that GluonCV's ``scripts/datasets`` and
many others after it check (SHA-1; COCO's sizes are also what its server announces). The authors
of PVT publish no checksums of their weights: a file of theirs is read and compared with the model
that it is of, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mmpvt.errors import UserError
from mmpvt.models.archs import VARIANTS

COCO = "http://images.cocodataset.org"
ADE = "http://data.csail.mit.edu/places/ADEchallenge"


@dataclass(frozen=True)
class Source:
    """A file to get.

    Attributes:
        name: of the file.
        address: ``http://`` or ``https://``.
        size: its bytes, or None where they aren't known.
        sha1: its checksum, in hexadecimal digits, or None.
        folder: what an archive unpacks to.
        unpacked: bytes of what is in it, roughly: for a look at the free disk space. An archive's
            own listing is looked at before it is unpacked.
        files: how many files lie in a folder, and those below it, of a whole one.
    """

    name: str
    address: str
    size: int | None = None
    sha1: str | None = None
    folder: str = ""
    unpacked: int = 0
    files: dict[str, int] = field(default_factory=dict)

    def at(self, mirror: str | None) -> Source:
        """The same file at ``MIRROR/NAME``, or where it lies if there is no mirror."""
        return replace(self, address=f"{mirror.rstrip('/')}/{self.name}") if mirror else self


def weights() -> dict[str, Source]:
    """The published ImageNet weights, by name."""
    return {v.full_name: Source(f"{v.full_name}.pth", v.weights) for v in VARIANTS}


def _of_coco(name: str, path: str, **facts) -> Source:
    return Source(f"{path}.zip", f"{COCO}/{name}/{path}.zip", **facts)


ARCHIVES = dict(
    coco=dict(
        val2017=_of_coco(
            "zips",
            "val2017",
            size=815_585_330,
            sha1="4950dc9d00dbe1c933ee0170f5797584351d2a41",
            folder="val2017",
            unpacked=820_000_000,
            files={"val2017": 5_000},
        ),
        annotations=_of_coco(
            "annotations",
            "annotations_trainval2017",
            size=252_907_541,
            sha1="8551ee4bb5860311e79dace7e79cb91e432e78b3",
            folder="annotations",
            unpacked=850_000_000,
            files={"annotations": 6},
        ),
        train2017=_of_coco(
            "zips",
            "train2017",
            size=19_336_861_798,
            sha1="10ad623668ab00c62c096f0ed636d6aff41faca5",
            folder="train2017",
            unpacked=19_400_000_000,
            files={"train2017": 118_287},
        ),
    ),
    ade20k=dict(
        ADEChallengeData2016=Source(
            "ADEChallengeData2016.zip",
            f"{ADE}/ADEChallengeData2016.zip",
            size=967_382_037,
            sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
            folder="ADEChallengeData2016",
            unpacked=1_100_000_000,
            files={
                f"ADEChallengeData2016/{kind}/{split}": count
                for kind in ("images", "annotations")
                for split, count in (("training", 20_210), ("validation", 2_000))
            },
        ),
    ),
)


def choose(what: str, names: Sequence[str], mirror: str | None) -> list[Source]:
    """The files that make up what a user asks for.

    Args:
        what (str): ``'coco'``, ``'ade20k'`` or ``'weights'``.
        names (Sequence[str]): some of it; none for all.
        mirror (str | None): the address of a folder that has the files.

    Returns:
        list[Source]: the files.

    Raises:
        UserError: a name is unknown, or the mirror is no ``http://`` or ``https://`` address.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        raise UserError(f"--mirror {mirror}: give an address that begins with https:// or http://")
    known = weights() if what == "weights" else ARCHIVES[what]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{what} has no {', '.join(unknown)}: take some of {', '.join(known)}")
    return [known[name].at(mirror) for name in dict.fromkeys(names or known)]
