"""One config of each family, each in a process of its own."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from dev.deploy_sweep.comparing import compare_with_runtimes
from dev.deploy_sweep.models import SCALE, build_spread, make_small, photographs
from dev.swap_sweep import ConfigTrial, ShippedConfig
from mmpvt.deploy import export
from mmpvt.deploy.kinds import exportable
from mmpvt.deploy.verification import resized
from mmpvt.errors import ExportError, UserError

TIME_LIMIT = 600  # seconds of a config
MAX_TRIED = 4  # distinct models of a family, until one is exported


class Sweep:
    """Exports a config of each family for any runtime, and compares results.

    Args:
        records (Path): a file of JSON lines, one a model: those in it aren't tried again.
        data (Path): the folder of ``coco_mini`` and ``ade_mini``.
        photos (int): how many photographs results are compared on.
    """

    def __init__(self, records: Path, data: Path, photos: int) -> None:
        self.path, self.data, self.photos = records, data, photos
        self.trial = ConfigTrial()
        records.parent.mkdir(parents=True, exist_ok=True)

    @property
    def records(self) -> list[dict]:
        """Those in the file, which several sweeps may write to at once."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def family(self, configs: Sequence[ShippedConfig]) -> Iterator[dict]:
        """The records of a family's configs, until one is exported."""
        tried: set[str] = set()
        for shipped in configs:
            if len(tried) == MAX_TRIED:
                return
            prepared, config = self.trial.prepare(shipped)
            if config is None or prepared.model in tried:
                if config is None and prepared.verdict == "refused" and not tried:
                    reason = f"the swap: {prepared.reason}"
                    yield self._add(
                        dict(
                            family=shipped.family,
                            config=shipped.name,
                            model="",
                            verdict="refused",
                            reason=reason,
                        )
                    )
                continue
            tried.add(prepared.model)
            record = self.model(shipped, prepared.model, config)
            yield record
            if record["verdict"] == "exported":
                return

    def model(self, shipped: ShippedConfig, digest: str, config: Config) -> dict:
        """The record of a model, from the file if it is there."""
        known = next((r for r in self.records if r["model"] == digest), None)
        if known is not None:
            return self._add({**known, "family": shipped.family, "config": shipped.name})
        start = time.monotonic()
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=self._run, args=(config, theirs))
        process.start()
        theirs.close()
        result: dict = dict(verdict="failed", reason="the process ended")
        if not ours.poll(TIME_LIMIT):
            result = dict(verdict="failed", reason=f"took over {TIME_LIMIT} s")
            process.kill()
        else:
            with contextlib.suppress(EOFError):
                result = ours.recv()
        process.join()
        seconds = round(time.monotonic() - start, 1)
        record = dict(
            family=shipped.family, config=shipped.name, model=digest, seconds=seconds, **result
        )
        return self._add(record)

    def _add(self, record: dict) -> dict:
        if record not in self.records:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        return record

    def by_family(self, families: Sequence[str]) -> list[dict]:
        """The record of each family: of a config that is exported, or else the last."""
        found: dict[str, dict] = {}
        for record in self.records:
            if found.get(record["family"], {}).get("verdict") != "exported":
                found[record["family"]] = record
        none = dict(config="", verdict="not run", reason="the sweep was stopped before it")
        return [found.get(family, dict(none, family=family)) for family in families]

    def _run(self, config: Config, pipe) -> None:
        warnings.simplefilter("ignore")
        try:
            pipe.send(self._export(config))
        except UserError as error:
            pipe.send(dict(verdict="refused", reason=str(error)))
        except Exception as error:  # any error of a model is a result of the sweep
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            pipe.send(dict(verdict="failed", reason=reason[:400]))

    def _export(self, config: Config) -> dict:
        photos = photographs(self.data, config.default_scope, self.photos)
        make_small(config)
        init_default_scope(config.default_scope)
        # a refusal before long work; some models change their configs
        exportable(MODELS.build(copy.deepcopy(config.model)))
        model = build_spread(config, photos)
        silent: dict = dict(report=lambda line: None, runtime="any")
        has_one_size = False
        try:
            exported = export(model, config, **silent)
        except ExportError:  # where what is computed depends on the size
            exported = export(model, config, shape=SCALE[::-1], **silent)
            has_one_size = True
            pairs = [resized(config, photo, SCALE[::-1]) for photo in photos]
            photos, config = [photo for photo, _ in pairs], pairs[0][1]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(exported, path)
            results = compare_with_runtimes(path, model, config, photos)
        opsets = sorted(exported.graph.opset_imports)
        record: dict = dict(
            verdict="exported", reason="", domains=opsets, has_one_size=has_one_size
        )
        for name, deviation in results.items():
            if isinstance(deviation, str):
                record[name] = dict(error=deviation)
            else:
                record[name] = json.loads(json.dumps(asdict(deviation), default=float))
                record[name]["is_small"] = bool(deviation.is_small)
        return record
