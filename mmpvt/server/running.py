"""Starting the server, and stopping it without losing a request."""

from __future__ import annotations

import importlib.util
import logging
import math
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmpvt.errors import Interrupted, LaunchError
from mmpvt.utils.signals import handle
from mmpvt.utils.sockets import as_url, is_loopback

if TYPE_CHECKING:
    from mmpvt.inference.predictor import Predictor
    from mmpvt.server.service import ServerOptions

MODULES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
MAX_CONNECTIONS = 512  # others get 503: each is an open file, of which a process has about 1,000
KEEP_ALIVE = 30  # seconds that a connection without a request is kept
LINGER = 15  # seconds for a first request's head, or for what comes of a body that is refused


def check_installed() -> None:
    """Raises a LaunchError where a package of the extra is missing."""
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            raise LaunchError(
                f"the server needs {name}, which isn't installed", hint="pip install 'mmpvt[serve]'"
            )


def serve(
    load: Callable[[], Predictor], listening: socket.socket, host: str, options: ServerOptions
) -> None:
    """Answers requests until SIGINT or SIGTERM, and then those that are under way.

    The model is loaded in this thread while the server, in another, says that it isn't ready.

    Args:
        load (Callable): gives the model.
        listening (socket.socket): bound, where to listen.
        host (str): its host, to be shown.
        options (ServerOptions): how requests are answered.

    Raises:
        UserError: by ``load``.
        Interrupted: there was a signal before the model was loaded, or a second one.
    """
    import uvicorn

    from mmpvt.server.service import Service

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of every broken form
    for number in (signal.SIGINT, signal.SIGTERM):
        handle(number, _stop)
    with tempfile.TemporaryDirectory(prefix="mmpvt_serve_", ignore_cleanup_errors=True) as folder:
        service = Service(options, Path(folder))
        server = uvicorn.Server(
            uvicorn.Config(
                service.app,
                http=_connection(),
                ws="none",
                lifespan="off",
                log_config=None,  # its own would close the handlers of this process
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=math.ceil(2 * options.timeout) + 1,
            )
        )
        # a thread whose join() a signal's exception interrupts counts as ended (CPython bpo-45274)
        ended = threading.Event()

        def run() -> None:
            try:
                server.run(sockets=[listening])
            finally:
                ended.set()

        port = listening.getsockname()[1]
        threading.Thread(target=run, name="server", daemon=True).start()
        try:
            service.start(load())
            try:
                print(f"ready: {as_url(host, port)} (Ctrl-C stops it)", flush=True)
                if not is_loopback(host):
                    print(
                        "whoever reaches this machine can use the model: there is no "
                        "authentication",
                        flush=True,
                    )
                _wait(ended)
                raise RuntimeError("the server's thread ended by itself")
            except Interrupted:
                with suppress(OSError):  # of a closed pipe
                    print("stopping: what is under way is answered", flush=True)
        finally:
            service.stopping = server.should_exit = True
            _wait(ended)
            service.close()


def _wait(event: threading.Event) -> None:
    while not event.wait(0.5):  # longer, it would sleep through a signal that another takes
        pass


def _connection() -> type:
    """Uvicorn's protocol, which waits for ever for a first request, and for the end of a body that
    is refused before all of it is there."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(LINGER, self._close_unless_after, None)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.more_body:  # closed at once, the client might not see the answer
                self.loop.call_later(LINGER, self._close_unless_after, self.cycle)

        def _close_unless_after(self, cycle: object) -> None:
            if self.cycle is cycle:
                self.transport.close()

    return Connection


def _stop(number: int, frame: object) -> None:
    raise Interrupted(number)
