"""Training on one's own data, in whatever format, as a user would."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from annotated import CLASSES, FORMATS, masks, yolo
from mmpvt.checkpoint.saving import is_intact, newest_checkpoint
from mmpvt.reproduction import run_report
from mmpvt.utils.locking import LOCK


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    return read(work_dir)["state_dict"]


def read(work_dir: Path) -> dict:
    file = (work_dir / "last_checkpoint").read_text()
    return torch.load(file, map_location="cpu", weights_only=False)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def _no_workers_at_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report would wait ten seconds for each loading worker that the training left."""
    report = run_report.report_on_training

    def check(*args: object) -> str:
        assert not multiprocessing.active_children()
        return report(*args)

    monkeypatch.setattr(run_report, "report_on_training", check)


@pytest.mark.parametrize(
    "kinds", [("coco", "yolo"), pytest.param(tuple(FORMATS), marks=pytest.mark.full)]
)
def test_equal_data_trains_alike_in_every_format(
    kinds: tuple[str, ...], tiny_config: Path, tmp_path: Path, call_tool
):
    for kind in kinds:
        root = tmp_path / kind
        root.mkdir()
        FORMATS[kind](root)
        before = listing(root)
        args = ("--data", root, "--epochs", 2, "--seed", 0, "--work-dir", tmp_path / f"run_{kind}")
        ended = call_tool("train.py", tiny_config, *args)
        assert ended.code == 0, ended.out + ended.err
        assert "3 classes: ant, bee, cow" in ended.out
        assert "2 epochs of 10 iterations" in ended.out  # of 19 images; 5 are for validation
        assert listing(root) == before
    checkpoint = read(tmp_path / "run_coco")
    assert tuple(checkpoint["meta"]["dataset_meta"]["classes"]) == CLASSES
    assert checkpoint["state_dict"]["bbox_head.retina_cls.weight"].shape[0] % len(CLASSES) == 0
    for kind in kinds:
        others = weights(tmp_path / f"run_{kind}")
        assert all(torch.equal(others[name], t) for name, t in checkpoint["state_dict"].items())
    assert (tmp_path / "run_coco" / "report" / "index.html").is_file()


def test_images_that_the_filter_leaves_out_are_no_iterations(
    tiny_config: Path, tmp_path: Path, call_tool
):
    """It is said before the run, which a mistake ends here."""
    (tmp_path / "mine").mkdir()
    yolo(tmp_path / "mine")
    rule = "train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=True)))"
    config = tmp_path / "filtered.py"
    config.write_text(f'_base_ = "{tiny_config}"\n{rule}\n')
    args = ("--data", tmp_path / "mine", "--epochs", 1, "--loggers", "nosuch")
    args = (*args, "--work-dir", tmp_path / "run", "--cfg-options", "optim_wrapper.optimizer.lr=1")
    said = call_tool("train.py", config, *args).out
    skipped = "3 of 19 training images, without objects (--keep-empty keeps those)\n"
    assert f"by the config's filter_cfg: {skipped}" in said
    assert "1 epoch of 8 iterations; then, by --cfg-options: optim_wrapper.optimizer.lr=1" in said
    said = call_tool("train.py", config, *args, "--keep-empty").out
    assert "filter_cfg" not in said and "1 epoch of 10 iterations" in said


def test_notes_are_given_once(tiny_config: Path, tmp_path: Path, call_tool, caplog):
    """The training is ended by a mistake after them."""
    yolo(tmp_path / "mine")
    with (tmp_path / "mine" / "labels" / "img_00.txt").open("a") as file:
        file.write("0 0.5 0.5 1.0005 1\n")
    said = "objects have coordinates a little beyond their images, clipped: 1 (the first: "
    to_train = ("--data", tmp_path / "mine", "--work-dir", tmp_path / "run", "--loggers", "nosuch")
    to_convert = (tmp_path / "coco", "--to", "coco", "--val-fraction", 0.2)
    for line in (
        ("train.py", tiny_config, *to_train),
        ("convert_dataset.py", tmp_path / "mine", *to_convert),
    ):
        caplog.clear()
        ended = call_tool(*line)
        assert (ended.out + ended.err + caplog.text).count(said) == 1
        assert ended.out.count("split with seed 0 into train 19, val 5") == 1


def test_label_maps_train_a_segmenter(
    tiny_segmenter: Path, tmp_path: Path, call_tool, monkeypatch: pytest.MonkeyPatch
):
    root, work_dir = tmp_path / "data", tmp_path / "run"
    write_run_report, workers = run_report.write_run_report, []

    def write(*args: object) -> Path:
        workers.append(multiprocessing.active_children())
        return write_run_report(*args)

    monkeypatch.setattr(run_report, "write_run_report", write)
    root.mkdir()
    masks(root)
    args = ("--data", root, "--work-dir", work_dir, "--epochs", 1, "--seed", 0)
    ended = call_tool("train.py", tiny_segmenter, *args)
    assert ended.code == 0, ended.out + ended.err
    assert workers == [[]]  # for each that is left, the report would wait five seconds
    classes = read(work_dir)["meta"]["dataset_meta"]["classes"]
    assert tuple(classes) == ("background", *CLASSES)
    assert weights(work_dir)["decode_head.conv_seg.weight"].shape[0] == 4
    # what was written runs alone
    written = work_dir / tiny_segmenter.name
    best = (work_dir / "last_checkpoint").read_text()
    ended = call_tool("test.py", written, best, "--work-dir", tmp_path / "test")
    assert ended.code == 0, ended.out + ended.err
    assert "mIoU" in ended.out


def test_an_archive_is_trained_on_and_resumed(tiny_config: Path, tmp_path: Path, call_tool):
    root, whole, resumed = (tmp_path / name for name in ("mine", "whole", "resumed"))
    root.mkdir()
    yolo(root)
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", root)
    args = ("--data", archive, "--seed", 0, "--epochs", 2)
    ended = call_tool("train.py", tiny_config, *args, "--work-dir", whole)
    assert ended.code == 0, ended.out + ended.err
    args = (*args, "--work-dir", resumed, "--resume", whole / "epoch_1.pth")
    ended = call_tool("train.py", tiny_config, *args)
    assert ended.code == 0, ended.out + ended.err
    assert not (resumed / "epoch_1.pth").exists()
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_a_signal_stops_the_report_alone(tiny_config: Path, tmp_path: Path, start_tool):
    root, work = tmp_path / "mine", tmp_path / "run"
    root.mkdir()
    yolo(root)
    args = ("--data", root, "--epochs", 1, "--seed", 0, "--work-dir", work)
    process = start_tool("train.py", tiny_config, *args)
    process.wait_for(lambda: "Load checkpoint from" in process.text)  # to test it
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.text
    *_, said, last = process.text.rstrip().splitlines()
    assert said == f"the training is complete, in {work}; only its report was stopped"
    assert last == "stopped by SIGINT"
    assert is_intact(newest_checkpoint(work)) and read(work)["meta"]["epoch"] == 1
    assert not (work / "report").exists() and not list(work.rglob(".*.part"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--data", "no_such_folder"), "there is no no_such_folder"),
        (("--data", "boxes", "--classes", "ant,wasp"), "wasp"),
        (("--data", "boxes", "--val-fraction", "1.5"), "--val-fraction"),
        (("--data", "boxes", "--data-format", "voc"), "voc"),
        (("--data", "boxes", "--epochs", "0"), "--epochs"),
        (("--data", "maps"), "label maps"),
        (("--data", "empty"), "empty"),
    ],
)
def test_mistakes_write_nothing(
    args: tuple, said: str, tiny_config: Path, tmp_path: Path, call_tool, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, write in dict(boxes=yolo, maps=masks, empty=lambda root: None).items():
        Path(name).mkdir()
        write(tmp_path / name)
    ended = call_tool("train.py", tiny_config, *args, "--work-dir", tmp_path / "run")
    assert said in ended.one_sentence()
    assert not Path("run").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_work_directory_that_can_not_be_made(
    packed: bool, tiny_config: Path, tmp_path: Path, call_tool
):
    """A file lies where its folder would."""
    data = tmp_path / "mine"
    data.mkdir()
    yolo(data)
    if packed:
        data = Path(shutil.make_archive(str(data), "zip", data))
    (tmp_path / "file").touch()
    work = tmp_path / "file" / "run"
    ended = call_tool("train.py", tiny_config, "--data", data, "--work-dir", work)
    assert f"the work directory {work} can't be written to" in ended.one_sentence()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, run_tool) -> Path:
    """The work directory of a finished run, beside its data in ``mine``."""
    root = tmp_path_factory.mktemp("finished")
    (root / "mine").mkdir()
    yolo(root / "mine")
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, root / "other.pth")
    args = ("--data", root / "mine", "--epochs", 1, "--seed", 0, "--work-dir", root / "run")
    ended = run_tool("train.py", tiny_config, *args)
    assert ended.code == 0, ended.out + ended.err
    return root / "run"


def kept(work_dir: Path) -> dict[str, bytes]:
    """A work directory's files without its logs, which are named by the time."""
    files = listing(work_dir)
    is_log = re.compile(r"\d{8}_\d{6}(/|\.py$)").match
    return {name: files[name] for name in files if name != LOCK and not is_log(name)}


@pytest.mark.parametrize(
    "mistake",
    [("--resume", "--loggers", "nosuch"), ("--resume",), ("--start-from", "other.pth")],
    ids=["option", "classes", "architecture"],
)
def test_mistakes_keep_a_finished_run(
    mistake: tuple, finished: Path, tiny_config: Path, call_tool, monkeypatch
):
    monkeypatch.chdir(finished.parent)
    before = kept(finished)
    assert {tiny_config.name, "data/train.json", "data/val.json"} <= before.keys()
    args = ("--data", "mine", "--classes", "bee,ant", "--work-dir", "run", *mistake)
    assert call_tool("train.py", tiny_config, *args).one_sentence()
    assert kept(finished) == before


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize(("stage", "keeps"), [("before_run", True), ("before_train_epoch", False)])
def test_a_traceback_keeps_a_finished_run(
    stage: str,
    keeps: bool,
    with_data: bool,
    finished: Path,
    shapes: Path,
    tiny_config: Path,
    tmp_path: Path,
    call_tool,
    monkeypatch: pytest.MonkeyPatch,
):
    """Until the training begins, whose config and data are there from then on."""
    call_hook = Runner.call_hook

    def fail(self: Runner, name: str, **arguments: object) -> None:
        if name == stage:
            raise ZeroDivisionError
        call_hook(self, name, **arguments)

    monkeypatch.setattr(Runner, "call_hook", fail)
    work_dir = shutil.copytree(finished, tmp_path / "run")
    before = kept(work_dir)
    other = ("--data", finished.parent / "mine", "--classes", "bee,ant")
    args = (*(other if with_data else ("--data-root", shapes)), "--work-dir", work_dir)
    with pytest.raises(ZeroDivisionError):
        call_tool("train.py", tiny_config, *args)
    now = kept(work_dir)
    assert (now == before) is keeps
    assert (now[tiny_config.name] == before[tiny_config.name]) is keeps


@pytest.mark.parametrize("relative", [True, False])
def test_data_or_run_moved(
    relative: bool, finished: Path, tmp_path: Path, tiny_config: Path, call_tool, monkeypatch
):
    """The config of a run finds moved images; moved annotations it can't, and doesn't say so."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.parent / "mine", "mine")
    args = ("--data", "mine", "--epochs", 1, "--seed", 0, "--work-dir", "run")
    ended = call_tool("train.py", tiny_config, *args)
    assert ended.code == 0, ended.out + ended.err
    Path("mine").rename("moved")
    test = ("test.py", f"run/{tiny_config.name}", "run/epoch_1.pth", "--work-dir", "test")
    assert "--data-root" in call_tool(*test).one_sentence()
    moved = "moved" if relative else tmp_path / "moved"
    ended = call_tool(*test, "--data-root", moved)
    assert ended.code == 0, ended.out + ended.err
    Path("run").rename("other")
    test = ("test.py", f"other/{tiny_config.name}", "other/epoch_1.pth", "--work-dir", "test")
    said = call_tool(*test, "--data-root", moved).one_sentence()
    assert str(tmp_path / "run" / "data" / "val.json") in said and "--data-root" not in said


def test_a_mistake_removes_an_unpacked_archive(
    finished: Path, tiny_config: Path, tmp_path: Path, call_tool
):
    before = kept(finished)
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", finished.parent / "mine")
    args = ("--data", archive, "--work-dir", finished, "--loggers", "nosuch")
    assert call_tool("train.py", tiny_config, *args).one_sentence()
    assert kept(finished) == before and not list((finished / "data").glob("mine-*"))


def test_options_of_data_take_data(tiny_config: Path, call_tool):
    ended = call_tool("train.py", tiny_config, "--classes", "car")
    assert ended.code == 2
    assert "--data, which isn't given" in ended.err
    ended = call_tool("train.py", tiny_config, "--data", "mine", "--data-root", "images")
    assert ended.code == 2 and "--data takes their place" in ended.err


def test_check_data(tiny_config: Path, tmp_path: Path, call_tool):
    root = tmp_path / "mine"
    root.mkdir()
    yolo(root)
    ended = call_tool("check_data.py", tiny_config, "--data", root, "--out", tmp_path / "out")
    assert ended.code == 0, ended.out + ended.err
    assert "19 images" in ended.out and "ant" in ended.out
    with min((root / "labels").iterdir()).open("a") as file:
        file.write("9 0.5 0.5 0.1 0.1\n")  # of no class
    args = ("check_data.py", tiny_config, "--data", root, "--out", tmp_path / "out")
    assert "pass --on-bad-data skip" in call_tool(*args).err
    ended = call_tool(*args, "--on-bad-data", "skip")
    assert ended.code == 0 and "42 objects" in ended.out, ended.out + ended.err
