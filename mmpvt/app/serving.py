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

from mmpvt.errors import ConfigError, Interrupted, LaunchError
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.signals import handle

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
    if not 0 < port < 65536:
        raise LaunchError(f"a port is a number from 1 to 65535, not {port}", setting="port")
    try:
        _bind(host, port)
    except socket.gaierror as error:
        raise LaunchError(f"there is no address {host}", setting="host") from error
    except PermissionError as error:
        what = f"{port} is reserved for the system's own services"
        raise LaunchError(what, setting="port", hint="take one from 1024 on") from error
    except OSError as error:
        with suppress(OSError):
            free = ("port", _bind(host, 0))
            raise LaunchError(f"{port} is taken", setting="port", instead=free) from error
        raise LaunchError(f"{host} is no address of this machine", setting="host") from error


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
    shown = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        shown = "localhost"
    print(f"ready: http://{shown}:{port} (Ctrl-C closes it)", flush=True)
    if not _is_loopback(host):
        print("whoever reaches this machine can use the page, without a password", flush=True)
    try:
        while not _signals:  # one long wait would sleep through a signal that another thread takes
            time.sleep(0.5)
        raise Interrupted(_signals[0])
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


def _stop(number: int, frame: object) -> None:
    _signals.append(number)
    raise Interrupted(number)
