"""Hostile archives are refused in a sentence, and nothing of them is anywhere."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from faulty_server import serving
from hostile_archives import GOOD, HARMLESS, HOSTILE, packed
from mmpvt.datasets.download import download_archives
from mmpvt.datasets.download.archives import unpack
from mmpvt.datasets.download.catalog import RemoteFile
from mmpvt.errors import OutputError, UserError
from mmpvt.utils.download import RetryPolicy

ONCE = RetryPolicy(timeout=5, retries=0)


def everything(folder: Path) -> dict[str, bytes | None]:
    """What lies below a folder: files' contents, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def install(content: bytes, folder: Path) -> None:
    """Downloads and unpacks an archive as users do, by its own checksum."""
    with serving({"/data.zip": content}) as server:
        source = RemoteFile(
            f"{server.url}/data.zip",
            size=len(content),
            sha1=hashlib.sha1(content).hexdigest(),
            files={"data": len(GOOD)},
        )
        download_archives([source], folder, ONCE)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmpvt.datasets.download.archives.MAX_FILES", 1000)
    archive = HOSTILE[name]
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "mine").write_text("precious")
    with pytest.raises(UserError) as caught:
        install(archive.make(), folder)
    said = str(caught.value)
    assert archive.reason in said
    assert said.isprintable() and len(said) < 400
    assert not (folder / "data").exists()
    beside = {k: v for k, v in everything(tmp_path).items() if not k.startswith("a/b/c/.download")}
    assert beside == {"a": None, "a/b": None, "a/b/c": None, "a/b/c/mine": b"precious"}
    unpacked = folder / ".download" / "unpacked-data"
    assert all(path.is_dir() or path.is_file() for path in unpacked.rglob("*"))
    assert not any(path.is_symlink() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(name: str, tmp_path: Path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    install(HARMLESS[name](), folder)
    found = everything(tmp_path)
    assert found.keys() - {"a", "a/b", "a/b/data"} == {
        p for p in found if p.startswith("a/b/data/")
    }
    assert GOOD.items() <= {k.removeprefix("a/b/"): v for k, v in found.items()}.items()


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Bär/🐜.jpg".encode(), "Bär/🐜.jpg"),  # macOS' Finder
        ("Bär.jpg".encode("cp437"), "Bär.jpg"),  # Windows' Explorer
        (b"plain.jpg", "plain.jpg"),
    ],
)
def test_names_without_the_flag_of_utf8(raw: bytes, name: str, tmp_path: Path):
    placeholder = b"x" * len(raw)
    content = packed((placeholder.decode(), b"a")).replace(placeholder, raw)
    (tmp_path / "a.zip").write_bytes(content)
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"a"


def test_disk_too_small(tmp_path: Path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(packed())
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"has 1\.0 kB free, and a\.zip unpacks to 5\.6 kB"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_good(tmp_path: Path, capsys: pytest.CaptureFixture):
    install(packed(("data/more/x", b"x"), ("beside", b"y")), tmp_path)
    expected = {**GOOD, "data/more/x": b"x", "data": None, "data/more": None}
    assert everything(tmp_path) == expected, "nothing else, and no archive any more"
    install(b"not asked for", tmp_path)
    assert f"{tmp_path / 'data'} has all its 8 files" in capsys.readouterr().out


def test_folder_that_is_there_already(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("precious")
    with pytest.raises(UserError, match=r"holds 1 of 8 files: it is left as it is"):
        install(packed(), tmp_path)
    assert everything(tmp_path) == {"data": None, "data/mine": b"precious"}


@pytest.mark.full
def test_more_entries_than_the_old_format_can_say(tmp_path: Path):
    """As COCO's largest archive has."""
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w") as archive:
        warnings.simplefilter("ignore")  # the same folder again and again
        for _ in range(70_000):
            archive.writestr(zipfile.ZipInfo("data/"), b"")
        archive.writestr("data/last", b"last")
    (tmp_path / "a.zip").write_bytes(content.getvalue())
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.infolist()) == 70_001
    unpack(tmp_path / "a.zip", tmp_path / "a")
    assert (tmp_path / "a" / "data" / "last").read_bytes() == b"last"
