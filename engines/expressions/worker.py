"""Evaluates requests, one at a time, for the process that has started this one.

It runs as a program, in a Python without site packages: so it imports nothing of flowstate.
"""

import importlib.util
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any, Protocol

__all__ = ["Evaluator", "FAILED", "HEAD", "LENGTH", "OK", "loaded", "replied"]

HEAD = struct.Struct(">III")  # Bytes of all that follows, of the prologue, of the program.
LENGTH = struct.Struct(">I")
OK, FAILED = b"=", b"!"
MOST_ERROR = 2_000
BASE = 128 * 1024 * 1024  # What Python and its packages take before they do anything.


class Evaluator(Protocol):
    """Evaluates programs of one language."""

    def evaluate(self, prologue: bytes, program: bytes, given: bytes) -> bytes:
        """Return the result as JSON; nothing given: only check the program.

        Raises:
            ValueError: what is wrong.
        """


def replied(evaluator: Evaluator, request: bytes) -> bytes:
    """Return OK and the result as JSON, or FAILED and why."""
    _, prologue, program = HEAD.unpack_from(request)
    start = HEAD.size + prologue
    end = start + program
    try:
        return OK + evaluator.evaluate(
            request[HEAD.size : start], request[start:end], request[end:]
        )
    except ValueError as error:
        return FAILED + str(error)[:MOST_ERROR].encode(errors="replace")


def loaded(path: str, *limits: int) -> Evaluator:
    """Return the evaluator of a file."""
    spec: Any = importlib.util.spec_from_file_location("flowstate_evaluator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Evaluator = module.Evaluator(*limits)
    return made


def _serve(evaluator: Evaluator, channel: socket.socket, seconds: float) -> None:
    """Reply to what comes through a socket, until its other end is closed."""
    while request := channel.recv(65_536):
        request += _rest(channel, LENGTH.size - len(request))
        request += _rest(channel, LENGTH.size + LENGTH.unpack_from(request)[0] - len(request))
        # Its action is to end the process, wherever it is; so no clean-up is needed after it.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = replied(evaluator, request)
        channel.sendall(LENGTH.pack(len(reply)) + reply)


def _rest(channel: socket.socket, size: int) -> bytes:
    return channel.recv(size, socket.MSG_WAITALL) if size > 0 else b""


def _confine(memory: int) -> None:
    os.environ.clear()  # Python has put the locale there.
    limits = {"NOFILE": 0, "FSIZE": 0, "CORE": 0, "NPROC": 0, "AS": memory + BASE}
    if sys.platform == "darwin":
        del limits["AS"]  # Its kernel refuses this one.
    for name, limit in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        value = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (value, value))


def _main(path: str, descriptor: str, seconds: str, memory: str, *limits: str) -> None:
    with socket.socket(fileno=int(descriptor)) as channel:
        evaluator = loaded(path, *map(int, limits))
        _confine(int(memory))
        _serve(evaluator, channel, float(seconds))


if __name__ == "__main__":
    sys.path += sys.argv[1].split(os.pathsep)
    _main(*sys.argv[2:])
