"""Tells whether codes can go on with an instance, before anything of it runs."""

from datetime import datetime
from random import Random

from flowstate.context import StateContext
from flowstate.engines.kernel.asking import Asking
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import Cancelled
from flowstate.engines.kernel.instance import WORKFLOW, Codes, Instance
from flowstate.engines.kernel.joining import check_held
from flowstate.engines.kernel.operations import Operation
from flowstate.state import State

__all__ = ["misfit"]


def misfit(state: State, codes: Codes) -> str:
    """Return why codes could not go on with a live instance; empty if they can.

    It compares what is stored with the stops, names, types and levels of the codes. Of the user's
    code, only the arguments of joins and of ``each`` are evaluated.
    """
    try:
        code = codes[state.labels.get(WORKFLOW, "")]
        _check(Instance.of(StateContext(state), code, codes))
    except MisfitError as error:
        # Without what tells instances apart, so that those with one reason can be counted.
        return str(error).replace(f" of {state.id!r} at revision {state.rev}", "")
    return ""


def _check(instance: Instance) -> None:
    asking = Asking(instance, _never, Random(0))  # noqa: S311 - it draws nothing
    for name, thread in instance.threads.items():
        for frame in thread.frames:
            instance.codes.of(frame).check(frame)
        if thread.does in ("join", "each") and (operation := _asked(asking, name)):
            check_held(operation, thread, len(instance.branches(name)))


def _asked(asking: Asking, name: str) -> Operation | None:
    """Return what a thread wants; nothing if an argument raises, which its code gets to see."""
    try:
        return asking.ask(name)
    except MisfitError:
        raise
    except (Exception, Cancelled):  # noqa: BLE001 - of the user's arguments
        return None


def _never(seconds: float) -> datetime:
    raise AssertionError(seconds)
