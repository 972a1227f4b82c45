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

from mmpvt.engine.checks.data import check_data
from mmpvt.engine.config import load_config, set_data_root
from mmpvt.engine.config_parts import dataset_kind, iter_datasets
from mmpvt.engine.launch import is_first_process
from mmpvt.errors import ConfigError, OutputError, UserError
from mmpvt.reproduction import report
from mmpvt.reproduction.checkpoints import Checkpoint
from mmpvt.reproduction.evaluation_process import environment_of, run_evaluation
from mmpvt.reproduction.result_store import (
    FAILED,
    FOLDER,
    SKIPPED,
    TESTED,
    ResultStore,
    digest_of_test,
    file_name,
)
from mmpvt.reproduction.training_log import find_log, read_log
from mmpvt.utils.locking import locked
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.text import printable

WORK = "work"  # the folder in the report's that the tests write to


@dataclass(frozen=True)
class ReproduceOptions:
    """What a report is made with.

    Attributes:
        tool: ``tools/test.py``.
        out: the report's folder.
        published: what the papers report, by config's name: records of
            ``docs/published_results.json``.
        roots: the folders of the data sets ``'coco'`` and ``'ade'``; None for the configs' own.
        logs: folder of training logs, if there is one.
        max_images: of a model's gallery.
        cfg_options: ``KEY=VALUE`` settings, as of ``tools/test.py``.
        launcher: what started the processes.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None for any.
    """

    tool: Path
    out: Path
    published: Mapping[str, dict]
    roots: Mapping[str, str | None]
    logs: Path | None = None
    max_images: int = 24
    cfg_options: Sequence[str] = ()
    launcher: str = "none"
    device: str | None = None


def reproduce(options: ReproduceOptions, checkpoints: Sequence[Checkpoint]) -> list[dict]:
    """Tests checkpoints and writes the report, anew after each.

    What an earlier call tested on the same content is taken from its records. A failure ends up in
    its model's record, and the next call tries it again.

    Args:
        options (ReproduceOptions): of the report.
        checkpoints (Sequence[Checkpoint]): from :func:`find_checkpoints`.

    Returns:
        list[dict]: a record a checkpoint.

    Raises:
        UserError: the report can't be written, or another call is writing it.
    """
    try:
        if not is_first_process():
            return _EvaluationLoop(options, checkpoints).run()
        Outputs(options.out).check(*report.FILES, FOLDER, WORK)
        options.out.mkdir(parents=True, exist_ok=True)
        with locked(options.out, "out"):
            return _EvaluationLoop(options, checkpoints).run()
    except OSError as error:
        raise OutputError(
            f"{options.out} can't be written to ({error.strerror})",
            setting="out",
            hint="once it can be, or with another folder, the same command resumes",
        ) from error


@dataclass
class _Entry:
    """A checkpoint, and what is known of its test."""

    checkpoint: Checkpoint
    record: dict
    config: Config | None = None
    data_setting: str | None = None  # a key of ReproduceOptions.roots

    def fail(self, error: UserError) -> None:
        """Records an error; ``data_root`` is a setting of each data set's here."""
        if error.setting == "data_root":
            error.setting = self.data_setting
        if error.instead and error.instead[0] == "data_root":
            error.instead = (self.data_setting, None) if self.data_setting else None
        status = FAILED if self.checkpoint.config else SKIPPED
        self.record.update(status=status, error=str(error))


class _EvaluationLoop:
    def __init__(self, options: ReproduceOptions, checkpoints: Sequence[Checkpoint]) -> None:
        self.options = options
        self.out = Outputs(options.out)
        self.store = ResultStore(self.out)
        self.entries = [_Entry(c, dict(name=c.name, file=str(c.path))) for c in checkpoints]
        self.seconds: list[float] = []
        digests: dict[str, str] = {}
        for entry in self.entries:  # on all processes, before any has changed something
            try:
                self._prepare(entry, digests)
            except (UserError, OSError) as error:
                entry.fail(error if isinstance(error, UserError) else UserError(str(error)))
                self._print("{name}: {status}, {error}".format(**entry.record))

    def _prepare(self, entry: _Entry, digests: dict[str, str]) -> None:
        """Finds out what to test."""
        checkpoint = entry.checkpoint
        if checkpoint.config is None:
            near = f" (near: {', '.join(checkpoint.near)})" if checkpoint.near else ""
            raise ConfigError(f"no config has such a name{near}", instead=("map", "NAME=CONFIG"))
        name = file_name(checkpoint.name)
        self.out.check(f"{FOLDER}/{name}.json", f"{WORK}/{name}")
        overrides = _parse_cfg_options(self.options.cfg_options)
        config = load_config(checkpoint.config, overrides)
        if not config.get("test_dataloader"):
            raise ConfigError(f"{checkpoint.config} has no test_dataloader")
        stem = Path(config.filename).stem
        entry.config = config
        entry.record.update(report.describe(config, stem, self.options.published))
        entry.data_setting = _data_setting(config)
        if data_root := self.options.roots.get(entry.data_setting or ""):
            set_data_root(config, data_root)
        try:
            entry.record["key"] = digest_of_test(checkpoint.path, config, digests)
        except OSError:
            check_data(config, ("test",))  # says what is missing
            raise
        if self.options.logs is not None:
            log = find_log(self.options.logs, checkpoint.name, stem, self.options.out)
            try:
                entry.record["training"] = read_log(log) if log else None
            except UserError as error:
                self._print(f"{checkpoint.name}: no curves of its training, {error}")
        if known := self.store.get(checkpoint.name, entry.record["key"]):
            entry.record = dict(known, **entry.record)
            self._print(f"{checkpoint.name}: tested before, on the same")

    def run(self) -> list[dict]:
        waiting = [
            (entry, entry.config)
            for entry in self.entries
            if entry.config is not None and "status" not in entry.record
        ]
        self._write()
        for number, (entry, config) in enumerate(waiting):
            self._test(entry, config, number, len(waiting))
            self._write()
        return [entry.record for entry in self.entries]

    def _test(self, entry: _Entry, config: Config, number: int, total: int) -> None:
        options, record = self.options, entry.record
        label = f"[{number + 1}/{total}] {entry.checkpoint.name}"
        self._print(f"{label}: {Path(config.filename).name}")
        arguments = ["--launcher", options.launcher]
        if options.cfg_options:
            arguments += ["--cfg-options", *options.cfg_options]
        if data_root := options.roots.get(entry.data_setting or ""):
            arguments += ["--data-root", data_root]
        began = time.monotonic()
        try:
            collected = run_evaluation(
                options.tool,
                config,
                entry.checkpoint.path,
                arguments,
                options.out / WORK / file_name(entry.checkpoint.name),
                options.max_images,
                environment_of(number, options.launcher, options.device),
                lambda progress: self._print(f"{label}: {progress}"),
            )
        except UserError as error:
            entry.fail(error)
            self.store.put(record)
            self._print(f"{label}: failed, {record['error']}")
            return
        if collected is None:  # not the first process
            record.update(status=TESTED)
            return
        seconds = time.monotonic() - began
        self.seconds.append(seconds)
        finished = datetime.now().astimezone().isoformat(timespec="seconds")
        record.update(collected, status=TESTED, seconds=round(seconds, 1), finished=finished)
        record["scores"] = report.scores(collected["metrics"])
        self.store.put(record)
        left = sum(self.seconds) / len(self.seconds) * (total - number - 1)
        self._print(
            f"{label}: {report.headline(record)}, {seconds:.0f} s; "
            f"all models: ETA {timedelta(seconds=round(left))}"
        )

    def _write(self) -> None:
        if is_first_process():
            report.write(self.out, [entry.record for entry in self.entries])

    def _print(self, line: str) -> None:
        if is_first_process():
            print(printable(line), flush=True)


def _data_setting(config: Config) -> str | None:
    """Which of the folders in ``ReproduceOptions.roots`` holds a config's data."""
    scope = config.get("default_scope", "mmengine")
    kinds = {dataset_kind(part, scope) for part in iter_datasets(config.test_dataloader.dataset)}
    known: dict[type | None, str] = {CocoDataset: "coco", ADE20KDataset: "ade"}
    return known.get(kinds.pop()) if len(kinds) == 1 else None


def _parse_cfg_options(options: Sequence[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--cfg-options", *options]).cfg_options
