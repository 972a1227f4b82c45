"""Starting the page's server, and leaving nothing behind."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmpvt.errors import Interrupted, UserError
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.signals import handle

UNSET = ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_NUM_WORKERS", "GRADIO_ROOT_PATH")

_asked: list[int] = []  # signals that told the process to end


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


def check_installed() -> None:
    """Looks whether gradio is there.

    Raises:
        UserError: it isn't.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio, which isn't installed: pip install 'mmpvt[app]'")


def check_port(host: str, port: int) -> None:
    """Looks whether a port is free, before a model is loaded.

    Raises:
        UserError: it is taken, or the address is none of this machine's.
    """
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: a port is a number from 1 to 65535")
    try:
        _bind(host, port)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: there is no such address") from error
    except PermissionError as error:
        raise UserError(
            f"--port {port} is for the system's own services: pass one from 1024 on"
        ) from error
    except OSError as error:
        with suppress(OSError):
            free = _bind(host, 0)
            raise UserError(f"--port {port} is taken: pass --port {free}, which is free") from error
        raise UserError(f"--host {host} is no address of this machine") from error


def check_names(names: Iterable[str]) -> None:
    """Looks whether host names are that alone.

    Raises:
        UserError: one is a URL, or has a port.
    """
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"--allow-host {name}: pass the host name alone, as in example.org")


def serve(
    predictor: Predictor, config: str, host: str, port: int, others: Iterable[str] = ()
) -> None:
    """Shows the page until the process is told to end; within :func:`private_folder`.

    Args:
        predictor (Predictor): the model.
        config (str): its config's path, for the headline.
        host (str): the address to listen at.
        port (int): likewise.
        others (Iterable[str]): further host names that the page is served as. Default: none.

    Raises:
        UserError: the port was taken in the meantime.
    """
    from mmpvt.app import page

    built = page.build(predictor, Path(config.rpartition("::")[2]).stem)
    try:
        page.launch(built, host, port, others)
    except OSError as error:
        raise UserError(f"--port {port} can't be listened at: {error}") from error
    print(f"ready: http://{_shown(host)}:{port} (Ctrl-C closes it)", flush=True)
    if not _is_loopback(host):
        print("whoever reaches this machine can use the page, without a password", flush=True)
    try:
        while not _asked:  # one long wait would sleep through a signal that another thread takes
            time.sleep(0.5)
        raise Interrupted(_asked[0])
    finally:
        built.close(verbose=False)


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return probe.getsockname()[1]


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _stop(number: int, frame: object) -> None:
    _asked.append(number)
    raise Interrupted(number)
