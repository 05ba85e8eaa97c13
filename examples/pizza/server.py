"""The service: ``python -m examples.pizza.server FOLDER PORT SECONDS`` serves until its input ends.

Who is asked has so many seconds to answer. ``PIZZA_SECRET`` in the environment signs the links.
"""

import asyncio
import os
import sys
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from msgspec import MsgspecError, Struct, json

from examples.pizza.orders import Books, Cancel, Order, pizza_order
from flowstate import Delayer, Engine, FlowRegistry, InvalidCommandError, StateNotFoundError
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.workflow import Workflows
from flowstate.engines.workflow.callbacks import CallbackRefusedError, SignedUrls
from flowstate.recovery import Recoverer

MOST_BYTES = 65_536  # Of a body; what is longer is cut, and so no JSON.
ERRORS: list[tuple[Any, int]] = [  # The first that fits counts.
    (CallbackRefusedError, 403),
    (StateNotFoundError, 404),
    ((InvalidCommandError, LookupError), 410),
    ((ValueError, MsgspecError), 422),
    (TimeoutError, 202),
    (Exception, 500),
]


class Start(Struct):
    data: Order


def handler(answer: Any, loop: asyncio.AbstractEventLoop) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Reads a request in a thread, and lets the loop answer it."""

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(min(length, MOST_BYTES))
            reply = answer(self.command, self.path, body)
            try:
                status, value = asyncio.run_coroutine_threadsafe(reply, loop).result()
            except Exception as error:  # noqa: BLE001 - the caller is told
                status = next(each for kind, each in ERRORS if isinstance(error, kind))
                value = {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.encode(value))

        do_PUT = do_POST = do_GET  # noqa: N815 - the base class calls them so

        def log_message(self, *_: Any) -> None:
            """Keep still: the links are secret."""

    return Handler


async def serve(folder: Path, port: int, patience: timedelta) -> None:
    books, secret = Books(folder / "books.db"), os.environ["PIZZA_SECRET"].encode()
    urls = SignedUrls(f"http://127.0.0.1:{port}/callbacks/", [secret])
    order = pizza_order(books, urls, patience)

    async def answer(method: str, path: str, body: bytes) -> tuple[int, Any]:
        reply: tuple[int, Any] = 404, None
        path, _, seconds = path.partition("?timeout=")
        match method, path.split("/")[1:]:
            case "PUT", ["pizza", id]:
                is_new = await workflows.start(order, id, json.decode(body, type=Start).data)
                reply = 201 if is_new else 200, None
            case "GET", ["pizza", id]:
                reply = 200, await workflows.query(id)
            case "GET", ["pizza", id, "result"]:
                reply = 200, await workflows.result(id, timeout=float(seconds or 0))
            case "POST", ["pizza", id, "messages", "cancel"]:
                cancel = json.decode(body, type=Cancel)
                reply = 202, await workflows.send(id, cancel, name="cancel", key="cancel")
            case "POST", ["callbacks", token]:
                reply = 200, await urls.deliver(workflows, token, body)
            case "GET", ["books", kind]:
                reply = 200, await asyncio.to_thread(books.find, kind)
        return reply

    async with (
        Engine(SQLiteDriver(folder / "pizza.db"), FlowRegistry()) as engine,
        Recoverer(engine, lease=1.0, poll_interval=0.2),
        Delayer(engine, lease=1.0),
        Workflows(engine, [order]) as workflows,
    ):
        handles = handler(answer, asyncio.get_running_loop())
        with ThreadingHTTPServer(("127.0.0.1", port), handles) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            await asyncio.to_thread(sys.stdin.read)
            server.shutdown()


if __name__ == "__main__":
    seconds = timedelta(seconds=float(sys.argv[3]))
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), seconds))
