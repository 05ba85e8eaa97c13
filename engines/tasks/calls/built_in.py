"""The functions that every document can call; each is imported when it is called first."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Function

__all__ = ["BUILT_IN"]

EXTRAS = {"grpc": "grpc", "asyncapi": "asyncapi", "sql": "postgres"}
MODULES = {"sql": "databases", "rpc": "json_rpc"}


def _imported(name: str) -> Function:
    async def called(arguments: Mapping[str, Any], call: Call) -> Any:
        try:
            module = import_module(f"flowstate.engines.tasks.calls.{MODULES.get(name, name)}")
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(name, "tasks")
            text = f"{error.name} is missing: pip install flowstate-engine[{extra}]"
            raise TaskError.of("configuration", text) from None
        return await getattr(module, name)(arguments, call)

    return called


BUILT_IN: Mapping[str, Function] = {
    name: _imported(name)
    for name in ("http", "openapi", "grpc", "asyncapi", "a2a", "mcp", "sql", "rpc")
}
"""By name."""
