"""``python -m examples.pizza`` starts the service and plays the people, and kills it in the middle.

At the end the books prove that every pizza was paid for once, or given back.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from random import Random
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from msgspec import json

ORDERS = 30
PATIENCE = 90.0  # Seconds for all of it.


def ask(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Ask the service, again while it is down; return the status and the answer."""
    request = Request(url, None if body is None else json.encode(body), method=method)  # noqa: S310
    for pause in [0.1] * 300:
        try:
            with urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310 - our own service
                return reply.status, json.decode(reply.read())
        except HTTPError as error:
            return error.code, json.decode(error.read())
        except (URLError, ConnectionError):
            time.sleep(pause)
    raise TimeoutError(f"{url} is not served")


def answer_mail(base: str, seen: set[Any]) -> None:
    """Let people answer their new mail: most say yes, some say no, some need a reminder."""
    for who in ("kitchen", "courier", "customer"):
        for id, url in ask("GET", f"{base}/books/{who}")[1]:
            mood, is_first = Random(f"{id} {who}").random(), (id, who) not in seen
            if url not in seen and mood > 0.1 and not (is_first and mood < 0.2):
                ask("POST", url, {"yes": mood < 0.9})
            seen |= {url, (id, who)}


def main(folder: str) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ["PIZZA_SECRET"] = secrets.token_hex()
    command = (sys.executable, "-m", "examples.pizza.server", folder, str(port), "2")
    base, ids = f"http://127.0.0.1:{port}", [f"order-{number}" for number in range(ORDERS)]
    service, killed = subprocess.Popen(command, stdin=subprocess.PIPE), False
    for id in ids:
        ask("PUT", f"{base}/pizza/{id}", {"data": {"pizza": "margherita", "cents": 995}})
    ask("POST", f"{base}/pizza/{ids[0]}/messages/cancel", {"why": "not hungry any more"})
    results, seen, until = dict[str, str](), set[Any](), time.monotonic() + PATIENCE
    while len(results) < ORDERS and time.monotonic() < until:
        answer_mail(base, seen)
        found = {id: ask("GET", f"{base}/pizza/{id}/result") for id in ids if id not in results}
        results |= {id: result for id, (status, result) in found.items() if status == 200}
        if not killed and len(results) > ORDERS // 3:
            service.kill()
            service.wait()
            print(f"Killed the service when {len(results)} orders had ended; starting it again.")
            service, killed = subprocess.Popen(command, stdin=subprocess.PIPE), True
    kinds = ("charge", "refund")
    paid, back = (Counter(id for id, _ in ask("GET", f"{base}/books/{k}")[1]) for k in kinds)
    service.communicate()
    print(f"{len(results)} of {ORDERS} orders ended:", dict(Counter(results.values())))
    wrong = [id for id in ids if paid[id] != 1 or back[id] != (results.get(id) == "refunded")]
    print(f"Wrong: {wrong}" if wrong else "Each was paid once, and given back if not delivered.")
    return 0 if killed and not wrong and len(results) == ORDERS else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="pizza-") as made:
        sys.exit(main(made))
