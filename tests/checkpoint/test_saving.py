"""A run's checkpoints are written intact, and the newest intact one is found."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import MessageHub

from mmpvt.checkpoint import newest_checkpoint
from mmpvt.checkpoint.saving import atomic_backend_args, is_intact, last_checkpoint
from mmpvt.engine.hooks.checkpoints import CheckpointHook
from mmpvt.errors import OutputError


def save(path: Path, iteration: int) -> Path:
    """A checkpoint, named as the newest."""
    torch.save({"meta": {"iter": iteration}, "state_dict": {"a": torch.ones(500)}}, path)
    path.with_name("last_checkpoint").write_text(str(path))
    return path


def test_newest(tmp_path: Path):
    assert newest_checkpoint(tmp_path) is None
    for i in (1, 2, 10):
        newest = save(tmp_path / f"epoch_{i}.pth", 4 * i)
    assert newest_checkpoint(tmp_path) == newest
    going_back = save(tmp_path / "epoch_2.pth", 8)
    assert newest_checkpoint(tmp_path) == going_back


@pytest.mark.parametrize(
    "pointer", ["", "work/epoch_", "\x00\x80", "http://host/a.pth", "gone.pth"]
)
def test_torn_pointer(pointer: str, tmp_path: Path):
    for i in (9, 10):
        newest = save(tmp_path / f"iter_{i}.pth", i)
    (tmp_path / "last_checkpoint").write_text(pointer)
    assert newest_checkpoint(tmp_path) == newest
    (tmp_path / "last_checkpoint").unlink()
    assert newest_checkpoint(tmp_path) == newest


def test_a_name_that_is_not_text(tmp_path: Path):
    checkpoint = tmp_path / os.fsdecode(b"epoch_\xe9.pth")
    checkpoint.touch()
    (tmp_path / "last_checkpoint").write_bytes(os.fsencode(checkpoint))
    assert last_checkpoint(tmp_path) == checkpoint


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "gone"])
def test_damaged_checkpoint(harm: str, tmp_path: Path):
    older, newest = (save(tmp_path / f"epoch_{i}.pth", 4 * i) for i in (1, 2))
    content = bytearray(newest.read_bytes())
    at = content.index(torch.ones(50).numpy().tobytes())
    content[at] ^= 1
    changed = dict(cut=content[: len(content) // 2], empty=b"", flipped=content).get(harm)
    if changed is None:
        newest.unlink()
    else:
        newest.write_bytes(changed)
    assert newest_checkpoint(tmp_path) == older


def test_killed_before_the_pointer_was_written(tmp_path: Path):
    older = save(tmp_path / "iter_8.pth", 8)
    pointer = (tmp_path / "last_checkpoint").read_bytes()
    time.sleep(0.01)
    newest = save(tmp_path / "interrupted.pth", 9)
    (tmp_path / "last_checkpoint").write_bytes(pointer)
    os.utime(tmp_path / "last_checkpoint", ns=(older.stat().st_mtime_ns,) * 2)
    assert newest_checkpoint(tmp_path) == newest


def test_moved_folder(tmp_path: Path):
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / "epoch_1.pth", 4)
    (tmp_path / "a").rename(tmp_path / "b")
    assert newest_checkpoint(tmp_path / "b") == tmp_path / "b" / "epoch_1.pth"


def test_what_a_run_cannot_resume_from(tmp_path: Path):
    torch.save({"state_dict": {}}, tmp_path / "epoch_3.pth")
    torch.save({"meta": {"iter": 9}}, tmp_path / "best_coco_bbox_mAP_epoch_3.pth")
    assert newest_checkpoint(tmp_path) is None


def test_mmengine_writes_atomically(tmp_path: Path):
    save(tmp_path / "a.pth", 1)
    backend = get_file_backend(str(tmp_path), backend_args=atomic_backend_args())
    with pytest.raises(TypeError):
        backend.put(None, tmp_path / "a.pth")
    assert is_intact(tmp_path / "a.pth") and not list(tmp_path.glob(".*"))


class Runner(SimpleNamespace):
    """Saves its iteration, unless the disk is full."""

    full = False

    def save_checkpoint(self, folder: str, name: str, *_, meta: dict, **__) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        torch.save(dict(meta=meta), Path(folder) / name)


def test_the_best_checkpoint_replaces_the_former(tmp_path: Path):
    runner = Runner(
        work_dir=str(tmp_path), logger=logging.getLogger(), message_hub=MessageHub("best"), epoch=0
    )
    hook = CheckpointHook(interval=1, save_best="main")
    hook.before_train(runner)

    def kept(score: float | None) -> set[str]:
        runner.epoch += 1
        runner.iter = 10 * runner.epoch
        hook.after_val_epoch(runner, {"aAcc": 1.0} if score is None else {"aAcc": 1, "mIoU": score})
        return {path.name for path in tmp_path.glob("*.pth")}

    assert kept(0.5) == {"best_mIoU_epoch_1.pth"}
    assert kept(0.4) == kept(float("nan")) == kept(0.5) == {"best_mIoU_epoch_1.pth"}
    runner.full = True
    assert kept(0.9) == {"best_mIoU_epoch_1.pth"}
    runner.full = False
    assert kept(0.6) == {"best_mIoU_epoch_6.pth"}  # better than what is on the disk
    assert runner.message_hub.get_info("best_score") == 0.6
    assert runner.message_hub.get_info("mmpvt_validated") == 60
    hook._saved_iteration = 70  # by the regular interval, before the validation
    assert kept(0.7) == {"best_mIoU_epoch_7.pth", "epoch_7.pth"}
    hook._failure, runner.train_loop = OSError(28, "No space left on device"), None
    with pytest.raises(OutputError, match=r"; the best model is in best_mIoU_epoch_7\.pth: make"):
        hook.after_train(runner)


def test_a_validation_without_the_score(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of a model that predicts nothing yet."""
    runner = Runner(
        work_dir=str(tmp_path), logger=logging.getLogger(), message_hub=MessageHub("none")
    )
    runner.epoch = runner.iter = 1
    for save_best in ("main", "coco/bbox_mAP"):
        hook = CheckpointHook(interval=1, save_best=save_best)
        hook.before_train(runner)
        hook.after_val_epoch(runner, {"val/loss": 1.0})
    assert caplog.text.count("no score to choose the best checkpoint") == 2


def test_the_hook_writes_atomically_unless_a_backend_is_named(tmp_path: Path):
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=logging.getLogger())
    for chosen, expected in ((None, atomic_backend_args()), ({"backend": "local"},) * 2):
        hook = CheckpointHook(interval=1, backend_args=chosen)
        hook.before_train(runner)
        assert hook.backend_args == expected
