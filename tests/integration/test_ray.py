"""Predictions on Ray Datasets: folders, Parquet and WebDataset, and an actor that is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

import mmpvt
from helpers import environment

ray = pytest.importorskip("ray")
ray_data = pytest.importorskip("ray.data")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SHARE = dict(concurrency=2, num_cpus=0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        ray_data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two sizes, a JPEG that EXIF turns, one of 16 bits, and a broken one."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(8):
        size = (24, 32) if number % 3 else (32, 24)
        kind = np.uint16 if number == 5 else np.uint8
        pixels = draw.integers(0, np.iinfo(kind).max, (*size, 3), kind)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    jpeg = cv2.imencode(".jpg", draw.integers(0, 255, (24, 40, 3), np.uint8))[1].tobytes()
    turn = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turn = b"\xff\xe1" + (len(turn) + 2).to_bytes(2, "big") + turn
    (folder / "8.jpg").write_bytes(jpeg[:2] + turn + jpeg[2:])
    (folder / "9.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, photos, tiny_config, trained, run_tool) -> dict:
    """What ``predict.py`` writes, by the file's name."""
    out = tmp_path_factory.mktemp("ray") / "out"
    args = (tiny_config, trained / "epoch_2.pth", photos, "--out", out, "--no-pictures")
    assert run_tool("predict.py", *args).code == 0
    read = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
    return {line["file_name"]: line for line in read}


def compare(row: dict, line: dict) -> None:
    """To the last digit."""
    if "error" in line:
        assert row["instances"] is None
        assert "can't be read as an image" in row["error"]
    else:
        assert row["error"] is None
        plain = [{k: v for k, v in one.items() if v is not None} for one in row["instances"]]
        assert plain == line["instances"] and plain


@pytest.fixture(scope="module")
def contents(photos: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(photos.iterdir())}


def from_folder(_: Path, photos: Path, __: dict) -> tuple[object, str]:
    return photos, "path"


def from_parquet(folder: Path, _: Path, contents: dict[str, bytes]) -> tuple[object, str]:
    table = dict(name=list(contents), label=list(range(10)), image=list(contents.values()))
    parquet.write_table(pa.table(table), folder / "a.parquet", row_group_size=3)
    return ray_data.read_parquet(str(folder / "a.parquet")), "name"


def from_hugging_face(folder: Path, _: Path, contents: dict[str, bytes]) -> tuple[object, str]:
    images = [dict(bytes=content, path=None) for content in contents.values()]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(dict(name=list(contents), photo=pa.array(images, kind)))
    parquet.write_table(table, folder / "a.parquet")
    return ray_data.read_parquet(str(folder / "a.parquet")), "name"


def from_webdataset(folder: Path, _: Path, contents: dict[str, bytes]) -> tuple[object, str]:
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as file:
            for name, content in list(contents.items())[shard::2]:
                for ending, held in (("jpg", content), ("txt", name.encode())):
                    entry = tarfile.TarInfo(f"{Path(name).stem}.{ending}")
                    entry.size = len(held)
                    file.addfile(entry, io.BytesIO(held))
    return ray_data.read_webdataset(str(folder), decoder=None), "txt"


@pytest.mark.parametrize(
    "make",
    [
        from_parquet,
        *(
            pytest.param(make, marks=pytest.mark.full)
            for make in (from_folder, from_hugging_face, from_webdataset)
        ),
    ],
)
def test_numbers_are_those_of_files(
    make, cluster, tmp_path, photos, contents, lines, tiny_config, trained
):
    dataset, key = make(tmp_path, photos, contents)
    share = dict(SHARE, concurrency=1) if make is from_parquet else SHARE
    found = mmpvt.ray.predict(dataset, tiny_config, trained / "epoch_2.pth", **share)
    rows = found.take_all()
    assert len(rows) == 10
    names = [row[key] for row in rows]
    names = [Path(n if isinstance(n, str) else n.decode()).name for n in names]
    assert sorted(names) == sorted(lines)
    for name, row in zip(names, rows, strict=True):
        compare(row, lines[name])
        assert "image" not in row and row.get("label", int(name[0])) == int(name[0])


@pytest.mark.full
def test_arrays_and_label_maps(cluster, photos, untrained_segmenter, tmp_path, run_tool):
    """Of ``read_images``, which decodes by itself and reads no EXIF."""
    args = (*untrained_segmenter, photos, "--out", tmp_path / "out", "--no-pictures")
    assert run_tool("predict.py", *args).code == 0
    files = [str(photos / f"{number}.png") for number in (0, 1, 2)]
    dataset = ray_data.read_images(files, include_paths=True)
    for row in mmpvt.ray.predict(dataset, *untrained_segmenter, **SHARE).take_all():
        written = cv2.imread(
            str(tmp_path / "out/label_maps" / f"{Path(row['path']).stem}.png"), cv2.IMREAD_UNCHANGED
        )
        given = cv2.imdecode(np.frombuffer(row["label_map"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(given, written) and row["error"] is None

    args = untrained_segmenter
    rows = ray_data.from_items([dict(image=5, path="a"), dict(image=6, path="b")])
    for row in mmpvt.ray.predict(rows, *args, column="image", **SHARE).take_all():
        assert row["error"].startswith(f"{row['path']} is neither a file's bytes nor an RGB array")


@pytest.mark.full
def test_a_killed_actor(cluster, photos, lines, tmp_path, tiny_config, trained):
    """What it was at is done again, and nothing twice."""
    names = [name for name in lines if name.endswith(".png") and name != "9.png"]
    contents = {name: (photos / name).read_bytes() for name in names}
    table = pa.table(dict(name=names * 40, image=[contents[name] for name in names] * 40))
    numbered = table.append_column("number", pa.array(range(len(table))))
    parquet.write_table(numbered, tmp_path / "many.parquet", row_group_size=40)
    dataset = ray_data.read_parquet(str(tmp_path / "many.parquet"), override_num_blocks=8)
    found = mmpvt.ray.predict(dataset, tiny_config, trained / "epoch_2.pth", **SHARE)
    rows, killed = [], []
    for row in found.iter_rows():
        if not killed:
            killed = actors()
            os.kill(killed[0], signal.SIGKILL)
        rows.append(row)
    assert killed
    assert sorted(row["number"] for row in rows) == list(range(len(table)))
    for row in rows:
        compare(row, lines[row["name"]])


def actors() -> list[int]:
    """Process numbers of this test's actors, which Ray names by their class."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            said, pid = path.read_bytes(), int(path.parent.name)
            if said.startswith(b"ray::") and b"_Actor" in said and os.getpid() in ancestors(pid):
                found.append(pid)
    return found


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


def test_careless(cluster, photos, tiny_config, trained, tmp_path):
    good = (tiny_config, trained / "epoch_2.pth")
    numbers = ray_data.from_items([dict(x=1, y="a")])
    images = ray_data.from_items([dict(image=b"x", error="y")])
    for dataset, args, options, expected in (
        (numbers, good, {}, r"none of the dataset's columns \(x, y\) is known to hold images"),
        (numbers, good, dict(column="z"), "column: the dataset has no column 'z', but x, y"),
        (images, good, {}, "the dataset has a column 'error' already"),
        (images, (tiny_config, tmp_path / "no.pth"), {}, "no checkpoint at"),
        (photos, good, dict(concurrency=2, num_cpus=1), "leave none of the cluster's 2 to read"),
        (photos, good, dict(tiles=-1), "tiles"),
        (tmp_path / "nowhere", good, {}, "nowhere isn't there, or holds no images"),
        (tmp_path, good, {}, "isn't there, or holds no images"),
    ):
        with pytest.raises(mmpvt.UserError, match=expected):
            mmpvt.ray.predict(dataset, *args, **options)


def test_ray_is_imported_when_it_predicts():
    code = (
        "import sys, mmpvt; mmpvt.ray; sys.exit('ray' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0
