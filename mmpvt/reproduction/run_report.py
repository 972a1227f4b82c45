"""The report of one trained model on its own data: a page in a folder."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmpvt.checkpoint.saving import last_checkpoint
from mmpvt.engine.config import set_hook
from mmpvt.engine.hooks.interrupt import raise_if_asked
from mmpvt.engine.preparation import TestOptions, prepare_test
from mmpvt.errors import CheckpointError, Interrupted, UserError
from mmpvt.reproduction import report
from mmpvt.reproduction.data_summary import summarize_data
from mmpvt.reproduction.page import render
from mmpvt.reproduction.reproduction_hook import ReproductionHook
from mmpvt.reproduction.result_store import TESTED
from mmpvt.reproduction.training_log import read_run
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.text import printable

PAGE = "index.html"
FOLDER = "report"  # in a work directory


def report_on_training(config: Config) -> str:
    """Reports on the last checkpoint of a training that has ended; each process is to call it.

    Whatever goes wrong, nothing of the training is lost, and nothing is raised but what ends the
    process.

    Args:
        config (Config): that it ran with, of :func:`~mmpvt.engine.preparation.prepare_training`.

    Returns:
        str: a sentence: where the report is, or why there is none.
    """
    work_dir = Path(config.work_dir)
    try:
        checkpoint = last_checkpoint(work_dir)
        if checkpoint is None:
            raise CheckpointError(
                f"there is no checkpoint of the training in {work_dir}", where=work_dir
            )
        options = TestOptions(checkpoint=str(checkpoint), launcher=config.get("launcher", "none"))
        return f"the report is {write_run_report(config, options, work_dir / FOLDER)}"
    except BaseException as error:  # the training is worth more than its report
        if stop := Interrupted.behind(error):
            print(
                printable(f"the training is complete, in {work_dir}; only its report was stopped")
            )
            raise stop from None
        if not isinstance(error, Exception):
            raise
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return printable(f"the training is complete, in {work_dir}, but without a report: {what}")


def write_run_report(
    config: Config,
    options: TestOptions,
    out: Path,
    training: Path | None = None,
    max_images: int = 24,
) -> Path:
    """Tests a checkpoint and writes the report of it; to be called by each process.

    Args:
        config (Config): of the model and its data.
        options (TestOptions): of the test.
        out (Path): the report's folder.
        training (Path | None): the work directory of the checkpoint's training, for its curves.
            Default: the checkpoint's folder.
        max_images (int): that are shown. Default: 24.

    Returns:
        Path: the page.

    Raises:
        UserError: the config, the checkpoint or the data can't be used, or the page not be written.
    """
    outputs = Outputs(out)
    outputs.check(PAGE)
    config = prepare_test(config, options)
    config.resume = False  # of a training's config
    hooks = [hook for hook in config.custom_hooks if hook.type != "mmpvt.ReproductionHook"]
    hook = dict(type="mmpvt.ReproductionHook", details=True, max_images=max_images)
    config.custom_hooks = [*hooks, hook]
    set_hook(config, type="mmpvt.InterruptHook", follows=True)
    data = summarize_data(config) if is_main_process() else []
    began = time.monotonic()
    runner = Runner.from_cfg(config)
    runner.test()
    if not is_main_process():
        return out / PAGE
    name = Path(config.filename or options.checkpoint).stem
    collected = next(h.content for h in runner.hooks if isinstance(h, ReproductionHook))
    record = dict(
        collected,
        **report.describe(config, name, {}),
        name=name,
        file=options.checkpoint,
        status=TESTED,
        run=True,
        scores=report.scores(collected["metrics"]),
        seconds=time.monotonic() - began,
        finished=datetime.now().astimezone().isoformat(timespec="seconds"),
        data=data,
        training=read_run(training or Path(options.checkpoint).parent),
    )
    page = render([record], title=f"Report: {name}").encode()
    raise_if_asked()
    return outputs.write(PAGE, page)
