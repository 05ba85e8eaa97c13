"""Evaluates expressions, and validates by JSON Schema."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import msgspec
from attrs.validators import ge, gt

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.pool import Pool
from flowstate.engines.expressions.process import Program
from flowstate.engines.expressions.requests import check_request, request_of, schema_request
from flowstate.engines.expressions.worker import OK
from flowstate.ground.frozen import EMPTY

__all__ = ["Expressions"]

MIB = 1024 * 1024
INPUT_SHARE = 16  # jq needs so many times the bytes of what it is given.
PROGRAMS, SCHEMAS = (str(Path(__file__).with_name(name)) for name in ("programs.py", "schemas.py"))

decode = msgspec.json.Decoder().decode


@attrs.define(eq=False)
class Expressions:
    """A pool of processes that evaluate jq; an async context manager.

    It belongs to the event loop and to the process that have opened it. A worker process starts
    when it is needed first. It has no environment and can open no file; it is killed if it takes
    too much time or memory, and another one takes its place. One more process validates by JSON
    Schema, since patterns and references can take any time, too.

    Attributes:
        workers: how many processes there are at most.
        seconds: of processor time that one expression may take. Where the processors are busy
            with something else, it is killed at the latest after three times that, and 10 s.
        memory: bytes that one expression may take; what it is given may have a 16th of that.
        result: bytes of JSON that all its results may have.
        results: how many results it may give.
        waiting: how many evaluations may wait for a process that is free.
        private: names of variables; what is wrong with an expression that mentions one of them is
            not told while it is evaluated, since jq would tell their values.
    """

    workers: int = attrs.field(default=2, kw_only=True, validator=ge(1))
    seconds: float = attrs.field(default=1.0, kw_only=True, validator=gt(0))
    memory: int = attrs.field(default=256 * MIB, kw_only=True, validator=ge(16 * MIB))
    result: int = attrs.field(default=MIB, kw_only=True, validator=ge(1))
    results: int = attrs.field(default=10_000, kw_only=True, validator=ge(1))
    waiting: int = attrs.field(default=10_000, kw_only=True, validator=ge(1))
    private: Collection[str] = attrs.field(default=("secrets", "authorization"), kw_only=True)
    _programs: Pool = attrs.field(init=False)
    _schemas: Pool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        limits = (self.seconds, self.memory, self.result, self.results)
        self._programs = Pool(Program(PROGRAMS, "jq", *limits), self.workers, self.waiting)
        self._schemas = Pool(Program(SCHEMAS, "jsonschema", *limits), 1, self.waiting)

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            ModuleNotFoundError: the package jq is not installed.
        """
        self._programs.program.folders()
        self._programs.open()
        self._schemas.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End its processes; what is being evaluated raises RuntimeError."""
        await self._programs.close()
        await self._schemas.close()

    async def evaluate(self, program: str, value: Any, variables: Mapping[str, Any] = EMPTY) -> Any:
        """Return what an expression makes of a value: none of no results, a list of several.

        Args:
            program: in jq.
            value: JSON, its input.
            variables: JSON by name, without the dollar.

        Raises:
            ExpressionError: it does not compile, fails, or takes or gives too much.
            RuntimeError: the pool is not open, or another process has opened it.
        """
        request = request_of(program, value, variables, self.memory // INPUT_SHARE)
        reply = await self._reply(self._programs, program, request)
        if reply[:1] == OK:
            return _decoded(program, reply[1:])
        private = [name for name in self.private if name in variables and name in program]
        said = reply[1:].decode()
        raise ExpressionError(
            program, f"fails; it uses ${private[0]}, so why is not told" if private else said
        )

    async def check(self, program: str, variables: Sequence[str] = ()) -> None:
        """Refuse an expression that cannot be compiled.

        Args:
            program: in jq.
            variables: names that it may use, without the dollar.

        Raises:
            ExpressionError: why, as jq says it, with line and column.
            RuntimeError: the pool is not open, or another process has opened it.
        """
        reply = await self._reply(self._programs, program, check_request(program, variables))
        if reply[:1] != OK:
            raise ExpressionError(program, reply[1:].decode())

    async def problems(self, schema: Any, value: Any) -> Sequence[str]:
        """Return what is wrong with a value by a JSON Schema: up to 5 texts, each with its place.

        Args:
            schema: of any draft that its ``$schema`` names; it can refer to nothing outside.
            value: JSON.

        Raises:
            ExpressionError: the schema is none, or it takes too much time or memory.
            ModuleNotFoundError: the package jsonschema is not installed.
            RuntimeError: the pool is not open, or another process has opened it.
        """
        text, request = schema_request(schema, value, self.memory // INPUT_SHARE)
        reply = await self._reply(self._schemas, text, request)
        if reply[:1] != OK:
            raise ExpressionError(text, reply[1:].decode())
        found: Sequence[str] = _decoded(text, reply[1:])
        return found

    async def _reply(self, pool: Pool, program: str, request: bytes) -> bytes:
        return await pool.reply(program, request)


def _decoded(program: str, text: bytes) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as error:
        raise ExpressionError(program, f"gives no JSON ({error})") from None
