"""One tree of errors, drawn in the docstring as it is, and exported."""

import inspect
import pickle
import re

import pytest

import flowstate
from flowstate import errors

EXAMPLES: dict[str, Exception] = {
    "InvalidInputError": errors.InvalidInputError("state.id", "must not be empty"),
    "InvalidCommandError": errors.InvalidCommandError("commit", "has nothing to commit"),
    "UnknownFlowError": errors.UnknownFlowError("flow"),
    "RevisionMismatchError": errors.RevisionMismatchError(["b", "a"]),
    "CommitUnknownError": errors.CommitUnknownError("token"),
    "ClaimLostError": errors.ClaimLostError(["token.1", "token.0"]),
    "CompactedError": errors.CompactedError(7),
    "DamagedRevisionError": errors.DamagedRevisionError(7, "order-1", "of a newer version"),
    "ExecutionLostError": errors.ExecutionLostError("a"),
    "FlowTimeoutError": errors.FlowTimeoutError("charge", "order-1", 2.5),
    "LeaseLostError": errors.LeaseLostError("nightly"),
    "MailboxFullError": errors.MailboxFullError("order-1"),
    "HistoryRewoundError": errors.HistoryRewoundError(7, 3),
    "ValueNotFoundError": errors.ValueNotFoundError("order-1", 7, "bill"),
    "ValueDecodeError": errors.ValueDecodeError("order-1", 7, "bill", "$.items[0]", "not so"),
}


def classes() -> dict[str, type[Exception]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: each for name, each in found if issubclass(each, Exception)}


def drawn() -> dict[str, tuple[str, str]]:
    """Each class in the docstring, with its parent and its other base."""
    tree: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        found = re.match(r"^ {4}([│ ]*)([├└]── )?(\w+Error)(?: \((\w+)\))?(?: |$)", line)
        if found:
            depth = len(found[1]) // 4 + bool(found[2])
            path[depth:] = [found[3]]
            tree[found[3]] = (path[depth - 1] if depth else "Exception", found[4] or "")
    return tree


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {}
    for name, each in classes().items():
        first, *others = (base.__name__ for base in each.__bases__)
        real[name] = (first, "".join(others))

    assert drawn() == real


def test_every_error_is_exported() -> None:
    assert sorted(classes()) == sorted(errors.__all__)
    assert [name for name in errors.__all__ if not hasattr(flowstate, name)] == []
    assert [name for name in errors.__all__ if name not in flowstate.__all__] == []


def test_every_error_is_a_flowstate_error_and_says_what_it_is() -> None:
    for name, each in classes().items():
        assert issubclass(each, errors.FlowstateError), name
        assert each.__doc__, name


@pytest.mark.parametrize("name", EXAMPLES)
def test_errors_name_what_is_wrong(name: str) -> None:
    error = EXAMPLES[name]

    assert type(error).__name__ == name
    for value in vars(error).values():
        for part in value if isinstance(value, tuple) else (value,):
            assert str(part) in str(error)


def test_errors_with_attributes_are_all_tried() -> None:
    own = {name for name, each in classes().items() if "__init__" in vars(each)}

    assert own <= set(EXAMPLES)


def test_ids_of_a_mismatch_are_sorted() -> None:
    assert errors.RevisionMismatchError({"b", "a"}).ids == ("a", "b")


@pytest.mark.parametrize("name", EXAMPLES)
def test_errors_can_be_sent_to_another_process(name: str) -> None:
    error = EXAMPLES[name]
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - it was made here

    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
