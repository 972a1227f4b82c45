"""Every checkpoint's test, one after the other, and the report after each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmengine.config import Config, DictAction
from mmseg.datasets import ADE20KDataset

from mmpvt.engine.config import load_config, set_data_root
from mmpvt.engine.config_parts import dataset_kind, iter_datasets
from mmpvt.engine.data_check import check_data
from mmpvt.engine.launch import is_first_process
from mmpvt.errors import UserError
from mmpvt.reproduction import report
from mmpvt.reproduction.matching import Checkpoint
from mmpvt.reproduction.records import FAILED, FOLDER, PASSED_OVER, TESTED, Keys, Records, file_name
from mmpvt.reproduction.running import Job, TestFailed, environment_of, run
from mmpvt.reproduction.training_log import find_log, read_log
from mmpvt.utils.locking import locked
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.text import printable

WORK = "work"  # the folder of the report's that the tests write to


@dataclass(frozen=True)
class Plan:
    """What a report is made with.

    Attributes:
        tool: ``tools/test.py``.
        out: the report's folder.
        published: what the papers report, by config's name: records of
            ``docs/published_results.json``.
        roots: the folders that ``'coco'`` and ``'ade'`` lie in; None for those of the configs.
        logs: folder of training logs, if there is one.
        pictures: of a model's gallery, at most.
        cfg_options: ``KEY=VALUE`` settings, as of ``tools/test.py``.
        launcher: what started the processes.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None for what there is.
    """

    tool: Path
    out: Path
    published: Mapping[str, dict]
    roots: Mapping[str, str | None]
    logs: Path | None = None
    pictures: int = 24
    cfg_options: Sequence[str] = ()
    launcher: str = "none"
    device: str | None = None


def reproduce(plan: Plan, checkpoints: Sequence[Checkpoint]) -> list[dict]:
    """Tests checkpoints and writes the report, anew after each.

    What an earlier call tested on the same content is taken from its records. A failure ends up in
    its model's record, and the next time it is tried again.

    Args:
        plan (Plan): with what.
        checkpoints (Sequence[Checkpoint]): of what.

    Returns:
        list[dict]: a record a checkpoint.

    Raises:
        UserError: the report can't be written, or another call is writing it.
    """
    try:
        if not is_first_process():
            return _Reproduction(plan, checkpoints).run()
        Outputs(plan.out).check(*report.FILES, FOLDER, WORK)
        plan.out.mkdir(parents=True, exist_ok=True)
        with locked(plan.out, "--out"):
            return _Reproduction(plan, checkpoints).run()
    except OSError as error:
        raise UserError(
            f"--out: {plan.out} can't be written to ({error.strerror}); with that mended, or "
            "another folder, the same command goes on from here"
        ) from error


class _Reproduction:
    def __init__(self, plan: Plan, checkpoints: Sequence[Checkpoint]) -> None:
        self.plan = plan
        self.out = Outputs(plan.out)
        self.records = Records(self.out)
        self.speaks = is_first_process()
        self.tasks = self._look(checkpoints)
        self.seconds: list[float] = []

    def _look(self, checkpoints: Sequence[Checkpoint]) -> list[_Task]:
        """What there is to do; all processes look before any has changed something."""
        keys = Keys()
        tasks = []
        for checkpoint in checkpoints:
            task = _Task(checkpoint, dict(name=checkpoint.name, file=str(checkpoint.path)))
            tasks.append(task)
            if checkpoint.config is None:
                near = f" (near: {', '.join(checkpoint.near)})" if checkpoint.near else ""
                task.record.update(
                    status=PASSED_OVER,
                    error=f"no config has such a name{near}: name one with --map NAME=CONFIG",
                )
                self._say(f"{checkpoint.name}: passed over, {task.record['error']}")
                continue
            try:
                self._prepare(task, keys)
            except (UserError, OSError) as error:
                task.record.update(status=FAILED, error=_sentence(error))
                self._say(f"{checkpoint.name}: failed, {task.record['error']}")
        return tasks

    def _prepare(self, task: _Task, keys: Keys) -> None:
        name = file_name(task.checkpoint.name)
        self.out.check(f"{FOLDER}/{name}.json", f"{WORK}/{name}")
        options = _parse_options(self.plan.cfg_options)
        config = load_config(task.checkpoint.config, options)
        if not config.get("test_dataloader"):
            raise UserError(f"{task.checkpoint.config} says nothing of a test: no test_dataloader")
        task.config = Path(config.filename)
        task.record.update(report.describe(config, task.config.stem, self.plan.published))
        task.data_root = self._data_root(config)
        if task.data_root is not None:
            set_data_root(config, task.data_root)
        try:
            key = keys.key_of(task.checkpoint.path, config)
        except OSError:
            check_data(config, ("test",))  # says it in a sentence
            raise
        task.record["key"] = key
        known = self.records.get(task.checkpoint.name, key)
        if self.plan.logs is not None:
            log = find_log(self.plan.logs, task.checkpoint.name, task.config.stem, self.plan.out)
            try:
                task.record["training"] = read_log(log) if log else None
            except UserError as error:
                self._say(f"{task.checkpoint.name}: no curves of its training, {error}")
        if known:
            task.record = dict(known, **task.record)
            self._say(f"{task.checkpoint.name}: tested before, on the same")

    def _data_root(self, config: Config) -> str | None:
        """The folder that the command line names for the data of a config."""
        scope = config.get("default_scope", "mmengine")
        parts = iter_datasets(config.test_dataloader.dataset)
        kinds = [dataset_kind(part, scope) for part in parts]
        if kinds and all(kind is CocoDataset for kind in kinds):
            return self.plan.roots.get("coco")
        if kinds and all(kind is ADE20KDataset for kind in kinds):
            return self.plan.roots.get("ade")
        return None

    def run(self) -> list[dict]:
        waiting = [task for task in self.tasks if "status" not in task.record]
        self._write()
        for number, task in enumerate(waiting):
            self._test(task, number, len(waiting))
            self._write()
        return [task.record for task in self.tasks]

    def _test(self, task: _Task, number: int, total: int) -> None:
        name = task.checkpoint.name
        place = f"[{number + 1}/{total}] {name}"
        self._say(f"{place}: {task.config.name}")
        folder = self.plan.out / WORK / file_name(name)
        options = ["--launcher", self.plan.launcher]
        if self.plan.cfg_options:
            options += ["--cfg-options", *self.plan.cfg_options]
        job = Job(
            task.config,
            task.checkpoint.path,
            task.data_root,
            folder,
            self.plan.pictures,
            options,
        )
        began = time.monotonic()
        try:
            collected = run(
                job,
                self.plan.tool,
                environment_of(number, self.plan.launcher, self.plan.device),
                lambda said: self._say(f"{place}: {said}"),
            )
        except TestFailed as error:
            task.record.update(status=FAILED, error=str(error))
            self.records.put(task.record)
            self._say(f"{place}: failed, {task.record['error']}")
            return
        if collected is None:  # not the first process
            task.record.update(status=TESTED)
            return
        seconds = time.monotonic() - began
        self.seconds.append(seconds)
        finished = datetime.now().astimezone().isoformat(timespec="seconds")
        task.record.update(collected, status=TESTED, seconds=round(seconds, 1), finished=finished)
        task.record["scores"] = report.scores(collected["metrics"])
        self.records.put(task.record)
        left = sum(self.seconds) / len(self.seconds) * (total - number - 1)
        self._say(
            f"{place}: {report.headline(task.record)}, {seconds:.0f} s; "
            f"all models: ETA {timedelta(seconds=round(left))}"
        )

    def _write(self) -> None:
        if self.speaks:
            report.write(self.out, [task.record for task in self.tasks])

    def _say(self, line: str) -> None:
        if self.speaks:
            print(printable(line), flush=True)


@dataclass
class _Task:
    checkpoint: Checkpoint
    record: dict
    config: Path | None = None
    data_root: str | None = None


def _parse_options(options: Sequence[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--cfg-options", *options]).cfg_options


def _sentence(error: Exception) -> str:
    """The message, of ``tools/test.py`` perhaps, with the option that is this tool's."""
    return str(error).replace("--data-root", "--coco or --ade")
