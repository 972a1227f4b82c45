"""What can be downloaded: URLs, sizes, checksums.

Sizes and SHA-1 of the data sets' archives are those that GluonCV's ``scripts/datasets`` verifies.
PVT's authors publish no checksums of their weights: each file is compared with its model instead.
MMDetection names its detectors by the first digits of their SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mmpvt.errors import ConfigError
from mmpvt.models.archs import VARIANTS

COCO = "http://images.cocodataset.org"
MMDET = "https://download.openmmlab.com/mmdetection/v2.0/pvt"
ADE = "http://data.csail.mit.edu/places/ADEchallenge"


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        url: ``http://`` or ``https://``.
        size: in bytes, or None where it isn't known.
        sha1: in hexadecimal digits, or None.
        sha256: its first hexadecimal digits, or None.
        unpacked_size: in bytes, roughly.
        files: of an archive, the number of files in a folder and those below it.
    """

    url: str
    size: int | None = None
    sha1: str | None = None
    sha256: str | None = None
    unpacked_size: int = 0
    files: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def folder(self) -> str:
        """What an archive unpacks to."""
        return next(iter(self.files)).partition("/")[0]

    @property
    def verified_url(self) -> str:
        """The URL with what the file is verified by, as ``load_checkpoint`` takes it."""
        return f"{self.url}#sha256={self.sha256}"


def _detector(name: str, date: str, sha256: str) -> RemoteFile:
    return RemoteFile(f"{MMDET}/{name}/{name}_{date}-{sha256}.pth", sha256=sha256)


FILES = dict(
    coco=dict(
        val2017=RemoteFile(
            f"{COCO}/zips/val2017.zip",
            size=815_585_330,
            sha1="4950dc9d00dbe1c933ee0170f5797584351d2a41",
            unpacked_size=820_000_000,
            files={"val2017": 5_000},
        ),
        annotations=RemoteFile(
            f"{COCO}/annotations/annotations_trainval2017.zip",
            size=252_907_541,
            sha1="8551ee4bb5860311e79dace7e79cb91e432e78b3",
            unpacked_size=850_000_000,
            files={"annotations": 6},
        ),
        train2017=RemoteFile(
            f"{COCO}/zips/train2017.zip",
            size=19_336_861_798,
            sha1="10ad623668ab00c62c096f0ed636d6aff41faca5",
            unpacked_size=19_400_000_000,
            files={"train2017": 118_287},
        ),
    ),
    ade20k=dict(
        ADEChallengeData2016=RemoteFile(
            f"{ADE}/ADEChallengeData2016.zip",
            size=967_382_037,
            sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
            unpacked_size=1_100_000_000,
            files={
                f"ADEChallengeData2016/{kind}/{split}": count
                for kind in ("images", "annotations")
                for split, count in (("training", 20_210), ("validation", 2_000))
            },
        ),
    ),
    weights={variant.full_name: RemoteFile(variant.weights) for variant in VARIANTS},
    # RetinaNets of MMDetection's configs/pvt/metafile.yml, by their backbones
    detectors=dict(
        pvt_tiny=_detector("retinanet_pvt-t_fpn_1x_coco", "20210831_103110", "17b566bd"),
        pvt_small=_detector("retinanet_pvt-s_fpn_1x_coco", "20210906_142921", "b6c94a5b"),
        pvt_medium=_detector("retinanet_pvt-m_fpn_1x_coco", "20210831_103243", "55effa1b"),
        pvt_v2_b0=_detector("retinanet_pvtv2-b0_fpn_1x_coco", "20210831_103157", "13e9aabe"),
        pvt_v2_b1=_detector("retinanet_pvtv2-b1_fpn_1x_coco", "20210831_103318", "7e169a7d"),
        pvt_v2_b2=_detector("retinanet_pvtv2-b2_fpn_1x_coco", "20210901_174843", "529f0b9a"),
        pvt_v2_b3=_detector("retinanet_pvtv2-b3_fpn_1x_coco", "20210903_151512", "8357deff"),
        pvt_v2_b4=_detector("retinanet_pvtv2-b4_fpn_1x_coco", "20210901_170151", "83795c86"),
        pvt_v2_b5=_detector("retinanet_pvtv2-b5_fpn_1x_coco", "20210902_201800", "3420eb57"),
    ),
)


def detector_of(config: str) -> RemoteFile | None:
    """The detector that MMDetection published for one of the package's configs, by its name."""
    for file in FILES["detectors"].values():
        folder = file.url.split("/")[-2]  # retinanet_pvtv2-b0_fpn_1x_coco
        if folder.replace("pvtv2-", "pvt_v2_").replace("-", "_") == config:
            return file
    return None


def choose(what: str, names: Sequence[str] = (), mirror: str | None = None) -> list[RemoteFile]:
    """The files of a data set, of the weights or of the detectors.

    Args:
        what (str): ``'coco'``, ``'ade20k'``, ``'weights'`` or ``'detectors'``.
        names (Sequence[str]): some of its files. Default: all.
        mirror (str | None): the URL of a folder that has the files. Default: where they are
            published.

    Returns:
        list[RemoteFile]: the files.

    Raises:
        ConfigError: a name is unknown, or the mirror is no ``http://`` or ``https://`` URL.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        raise ConfigError(
            f"{mirror} is no URL that begins with https:// or http://", setting="mirror"
        )
    known = FILES[what]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{what} has no {', '.join(unknown)}: take some of {', '.join(known)}")
    files = [known[name] for name in dict.fromkeys(names or known)]
    if mirror:
        files = [replace(file, url=f"{mirror.rstrip('/')}/{file.name}") for file in files]
    return files
