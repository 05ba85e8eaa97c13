"""Ports for servers that tests start, stop and start again."""

import contextlib
import random
import socket
from pathlib import Path

__all__ = ["LOOPBACK", "free_port"]

LOOPBACK = "127.0.0.1"
LOWEST, HIGHEST = 10_000, 32_000
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
ATTEMPTS = 100


def _highest() -> int:
    """Return where the ports of outgoing connections begin, or what is usual."""
    with contextlib.suppress(OSError):
        return int(OUTGOING.read_text().split()[0])
    return HIGHEST


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a port of 127.0.0.1 that stays the server's own while the server is down.

    Not one that the system would pick: it gives those to outgoing connections too, and a client
    that tries to reach a server that is down could even be connected to itself.

    Raises:
        OSError: there is none.
    """
    ports = range(LOWEST, max(_highest(), LOWEST + ATTEMPTS))
    for port in random.sample(ports, ATTEMPTS):
        if _is_free(port):
            return port
    raise OSError(f"no free port among {ATTEMPTS} of {ports}")
