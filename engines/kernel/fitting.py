"""Tells whether codes can go on with an instance, before anything of it runs."""

from flowstate import State, StateContext
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import Cancelled
from flowstate.engines.kernel.instance import Codes, Instance
from flowstate.engines.kernel.joining import check_held
from flowstate.engines.kernel.operations import Operation
from flowstate.engines.kernel.waiting import Asking

__all__ = ["misfit"]


def misfit(state: State, codes: Codes) -> str:
    """Return why codes could not go on with a live instance; empty if they can.

    It compares what is stored with the stops, names, types and levels of the codes. Of the user's
    code, only the arguments of joins and of ``each`` are evaluated.
    """
    try:
        _check(Instance.of(StateContext(state), codes))
    except MisfitError as error:
        # Without what tells instances apart, so that those with one reason can be counted.
        return str(error).replace(f" of {state.id!r} at revision {state.rev}", "")
    return ""


def _check(instance: Instance) -> None:
    asking = Asking(instance)
    for name, thread in instance.threads.items():
        for frame in thread.frames:
            instance.codes[frame.code].check(frame)
        if thread.does in ("join", "each") and (operation := _asked(asking, name)):
            check_held(operation, thread, instance.branches(name))


def _asked(asking: Asking, name: str) -> Operation | None:
    """Return what a thread wants; nothing if an argument raises, which its code gets to see."""
    try:
        return asking.ask(name)
    except MisfitError:
        raise
    except (Exception, Cancelled):  # noqa: BLE001 - of the user's arguments
        return None
