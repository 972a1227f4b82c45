"""Starting the page's server, and leaving nothing behind."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpvt.errors import ConfigError, Interrupted, LaunchError
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.signals import handle
from mmpvt.utils.sockets import as_url, is_loopback, listen_at

UNSET = ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_NUM_WORKERS", "GRADIO_ROOT_PATH")

_signals: list[int] = []  # that ended the process


@contextmanager
def private_folder() -> Iterator[None]:
    """The only folder that gradio writes to, gone afterwards, also on SIGTERM.

    Gradio reads its settings as it is imported: that has to happen within.
    """
    handle(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix="mmpvt_app_", ignore_cleanup_errors=True) as folder:
        os.environ.update(
            GRADIO_TEMP_DIR=folder,
            GRADIO_EXAMPLES_CACHE=str(Path(folder, "examples")),
            GRADIO_ANALYTICS_ENABLED="False",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
        for name in UNSET:
            os.environ.pop(name, None)
        yield


def check(host: str, port: int, names: Iterable[str] = ()) -> None:
    """Checks, before a model is loaded, that the page can be served.

    Raises:
        LaunchError: gradio isn't installed, the port is taken, or the address is none of this
            machine's.
        ConfigError: a host name is a URL, or has a port.
    """
    if importlib.util.find_spec("gradio") is None:
        raise LaunchError(
            "the page needs gradio, which isn't installed", hint="pip install 'mmpvt[app]'"
        )
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            hint = "pass the host name alone, as in example.org"
            raise ConfigError(f"{name} is no host name", setting="allow_host", hint=hint)
    listen_at(host, port).close()


def serve(
    predictor: Predictor, config: str, host: str, port: int, others: Iterable[str] = ()
) -> None:
    """Shows the page until the process is told to end; within :func:`private_folder`.

    Args:
        predictor (Predictor): the model.
        config (str): its config's path, for the headline.
        host (str): the address to listen at.
        port (int): likewise.
        others (Iterable[str]): further host names of the page. Default: none.

    Raises:
        LaunchError: the port was taken in the meantime.
    """
    from mmpvt.app import page

    built = page.build(predictor, Path(config.rpartition("::")[2]).stem)
    try:
        page.launch(built, host, port, others)
    except OSError as error:
        raise LaunchError(f"{port} can't be listened at ({error})", setting="port") from error
    print(f"ready: {as_url(host, port)} (Ctrl-C closes it)", flush=True)
    if not is_loopback(host):
        print("whoever reaches this machine can use the page, without a password", flush=True)
    try:
        while not _signals:  # one long wait would sleep through a signal that another thread takes
            time.sleep(0.5)
        raise Interrupted(_signals[0])
    finally:
        built.close(verbose=False)


def _stop(number: int, frame: object) -> None:
    _signals.append(number)
    raise Interrupted(number)
