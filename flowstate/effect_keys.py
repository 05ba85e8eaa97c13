"""Keys for effects: a key names the step that a state is in, and stays as long as the step does.

A step begins at the revision of its ``Transit``, and that revision names it: its *origin*. Each
later revision of the same step keeps the origin in its transition. A step that is not committed
is named by the origin of what was committed and by how many steps were taken since. Flows that run
again after a crash take the same steps, so they find the same keys.
"""

from msgspec.structs import replace

from flowstate.recovery_rules import ORIGIN
from flowstate.state import State, Transition

__all__ = ["alone", "effect_key", "kept", "origin_before", "origin_of"]

MOST_DIGITS = 19  # Of a revision.
ALONE = "a"  # Before the number of a delay that was stored by itself.


def effect_key(state: State, origin: str) -> str:
    """Return the key of the step that a state is in."""
    return f"{state.id}:{origin}:{state.transition.to}"


def origin_of(transition: Transition, committed: State, steps: int) -> str:
    """Return what names a step.

    Args:
        transition: the last one of the working copy.
        committed: what the store has.
        steps: how many were taken since, that one included.
    """
    if transition.origin:
        return transition.origin
    if not steps:
        return (transition.annotations and _noted_origin(transition)) or str(committed.rev)
    last = committed.transition
    base = last.origin or _noted_origin(last) or str(committed.rev)
    name, _, number = base.partition(".")
    if number.isdecimal():
        return f"{name}.{int(number) + steps}"
    return f"{base}.{steps}"


def origin_before(state: State, delay_id: str) -> str:
    """Return what steps are counted from that begin with a delay which is not committed.

    Several delays of one revision begin different steps. Of a delay that was made again, because
    the flow that makes it ran again, they are the same.
    """
    # After the token, which may have dots: the number of those that were stored by themselves, or
    # else that in its commit.
    token, _, number = delay_id.rpartition(".")
    own = token.rpartition(".")[2]
    if own.startswith(ALONE) and own[1:].isdecimal():
        number = own
    rev = state.transition.since or state.rev  # What only changes a state keeps its delays.
    return f"{rev}-{number}" if number.strip("0") else str(rev)


def alone(token: str, number: int) -> str:
    """Return the token for a delay by itself, so that its id tells which one it is.

    Args:
        token: as of any other commit.
        number: from 1, of those that a context has stored at one revision.
    """
    return f"{token}.{ALONE}{number}"


def kept(transition: Transition, origin: str, since: int = 0) -> Transition:
    """Return a transition that names the step, for revisions that do not begin it."""
    # A state that never moved is in no step.
    return replace(transition, origin=origin, since=since) if transition.to else transition


def _noted_origin(transition: Transition) -> str:
    """Return the origin as it was noted by a library that had no field for it."""
    text = transition.annotations.get(ORIGIN, "")
    return text if text.isdecimal() and len(text) <= MOST_DIGITS else ""
