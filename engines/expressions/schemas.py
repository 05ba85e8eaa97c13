"""Validates by JSON Schema; a worker loads it as a file, so it imports nothing of flowstate."""

import json
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema
import referencing

__all__ = ["Evaluator"]

MOST_PROBLEMS = 5
MOST_TEXT = 300


class Evaluator:
    """Validates values; the program is a schema, the result a list of what is wrong."""

    def __init__(self, result: int, results: int) -> None:
        pass  # Its results are bounded anyway.

    def evaluate(self, prologue: bytes, program: bytes, given: bytes) -> bytes:  # noqa: ARG002
        """Return what is wrong, as ``worker.Evaluator`` says."""
        try:
            validator = _validator(program)
            problems = islice(
                validator.iter_errors(json.loads(given)) if given else (), MOST_PROBLEMS
            )
            return json.dumps([_text(each) for each in problems]).encode()
        except MemoryError:
            raise
        except jsonschema.SchemaError as error:
            raise ValueError(error.message[:MOST_TEXT]) from None
        except Exception as error:  # noqa: BLE001 - any kind, for what it was not made for
            raise ValueError(f"{type(error).__name__}: {error!s:.{MOST_TEXT}}") from None


@lru_cache(maxsize=256)
def _validator(text: bytes) -> Any:
    schema = json.loads(text)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    # With a registry of its own it fetches nothing over the network.
    return kind(schema, registry=referencing.Registry())


def _text(problem: jsonschema.ValidationError) -> str:
    return f"{problem.json_path[:MOST_TEXT]}: {problem.message[:MOST_TEXT]}"
