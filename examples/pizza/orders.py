"""An order as sections: it is paid, and then three people are asked, one after the other."""

import asyncio
import random
import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import attrs
from msgspec import Struct

from flowstate import RetryPolicy
from flowstate.engines.workflow import effect_key
from flowstate.engines.workflow.callbacks import Callback, SignedUrls
from flowstate.engines.workflow.sections import After, For, If, On, Return, Sections, Step, Wait

REMINDERS = 2


class Order(Struct):
    pizza: str
    cents: int
    stage: str = "kitchen"
    reminders: int = 0


class Answer(Struct):
    yes: bool


class Cancel(Struct):
    why: str


@attrs.frozen
class Books:
    """The world outside: what was charged, refunded and mailed, once for each key."""

    path: Path

    def ask(self, statement: str, *values: str) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.path, timeout=60.0)) as books, books:
            books.execute("CREATE TABLE IF NOT EXISTS entry (key PRIMARY KEY, id, kind, text)")
            return books.execute(statement, values).fetchall()

    def add(self, key: str, kind: str, text: str) -> None:
        id = key.partition("/")[0]  # Of the order.
        self.ask("INSERT OR IGNORE INTO entry VALUES (?, ?, ?, ?)", key, id, kind, text)
        if random.random() < 0.1:
            raise ConnectionError("the reply was lost")

    def find(self, kind: str) -> list[tuple[str, str]]:
        return self.ask("SELECT id, text FROM entry WHERE kind = ?", kind)


def pizza_order(books: Books, urls: SignedUrls, patience: timedelta) -> Sections:
    def charge(s: Order) -> None:
        books.add(effect_key(), "charge", str(s.cents))

    def refund(s: Order) -> None:
        books.add(effect_key(), "refund", str(s.cents))

    async def mail(who: str, _: Order, url: str) -> None:
        await asyncio.to_thread(books.add, effect_key(), who, url)

    def cancelled(s: Order, cancel: Cancel) -> None:
        s.stage = "refund"

    def ask(who: str, then: str, silence: str = "refund") -> For:
        """Ask someone by a link. A reminder is a new link; the old one is good no more."""

        def answered(s: Order, answer: Answer) -> str:
            s.stage, s.reminders = (then if answer.yes else "refund"), 0
            return f"thank you, {who}"

        def is_late(s: Order) -> None:
            s.reminders += 1
            if s.reminders > REMINDERS:
                s.stage, s.reminders = silence, 0

        answer = On("answer", Callback(urls, answered, partial(mail, who)))
        late = After(patience, Step(f"{who} is late", is_late))
        return For(lambda s: s.stage == who, Wait(who, answer, On("cancel", cancelled), late))

    return Sections(
        "pizza",
        Order,
        Step("charge", charge),
        ask("kitchen", then="courier"),
        ask("courier", then="customer"),
        ask("customer", then="delivered", silence="delivered"),
        If(lambda s: s.stage == "refund", Step("refund", refund), Return("refunded")),
        Return("delivered"),
        gives=str,
        retry=RetryPolicy(attempts=1_000, first=0.05, longest=1.0),
        retry_after=timedelta(seconds=2),
    )
