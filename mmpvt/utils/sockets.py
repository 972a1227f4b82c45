"""Where a server listens."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from mmpvt.errors import LaunchError


def listen_at(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine, for a server to listen at.

    Args:
        host (str): a name or address.
        port (int): from 1.

    Returns:
        socket.socket: bound, not listening yet.

    Raises:
        LaunchError: the port is taken, reserved or none, or the address is none of this machine's.
    """
    if not 0 < port < 65536:
        raise LaunchError(f"a port is a number from 1 to 65535, not {port}", setting="port")
    try:
        return _bind(host, port)
    except socket.gaierror as error:
        raise LaunchError(f"there is no address {host}", setting="host") from error
    except PermissionError as error:
        what = f"{port} is reserved for the system's own services"
        raise LaunchError(what, setting="port", hint="take one from 1024 on") from error
    except OSError as error:
        with suppress(OSError), _bind(host, 0) as free:
            instead = ("port", free.getsockname()[1])
            raise LaunchError(f"{port} is taken", setting="port", instead=instead) from error
        raise LaunchError(f"{host} is no address of this machine", setting="host") from error


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own, which no other reaches."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def as_url(host: str, port: int) -> str:
    """The URL at which a server is opened on this machine."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{'localhost' if host in ('0.0.0.0', '::') else shown}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
