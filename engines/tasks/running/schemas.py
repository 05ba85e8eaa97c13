"""Validates data by the schemas of a document."""

from collections.abc import Mapping
from typing import Any, Protocol

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.scope import Scene

__all__ = ["Resources", "check_schema"]


class Resources(Protocol):
    """Reads what is outside of a document."""

    @property
    def scene(self) -> Scene:
        """The instance."""

    async def resource(self, source: Any) -> Any:
        """Return JSON or YAML from outside."""


async def check_schema(
    schema: Mapping[str, Any], value: Any, resources: Resources, what: str
) -> None:
    """Refuse a value that a schema of a document does not allow.

    Raises:
        TaskError: ``validation``: it is not valid; ``configuration``: the schema is none.
    """
    if "resource" in schema:
        document = await resources.resource(schema["resource"])
    else:
        document = schema.get("document", {})
    try:
        problems = await resources.scene.runtime.expressions.problems(document, value)
    except ExpressionError as error:
        raise TaskError.of(
            "configuration", f"the schema of {what} is wrong: {error!s:.500}"
        ) from error
    if problems:
        raise TaskError.of("validation", f"{what} is not valid: {'; '.join(problems)}")
