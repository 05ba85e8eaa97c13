"""Recovery: what a crash interrupted goes on, on retry or by force.

:class:`Recoverer` does it, in one of all processes; :class:`Lease` elects that one, and serves
other purposes as well. A state says itself under which rules it is recovered: see
:func:`set_retry_after`, :func:`set_max_attempts` and :func:`disable`. What was ended by force is
found by :func:`dead_states` and goes on with :func:`retry_dead`. :func:`explain` says why a state
does not move.
"""

from flowstate.errors import LeaseLostError
from flowstate.recovery.dead import (
    DEAD,
    DeadState,
    count_dead,
    dead_states,
    is_dead,
    read_dead,
    retry_all_dead,
    retry_dead,
)
from flowstate.recovery.explanation import Explanation, explain
from flowstate.recovery.lease import Lease
from flowstate.recovery.policy import (
    attempt,
    disable,
    enable,
    idempotency_key,
    is_disabled,
    max_attempts,
    set_max_attempts,
    set_retry_after,
)
from flowstate.recovery.recoverer import Recoverer
from flowstate.recovery.stats import Stats
from flowstate.stalling import retry_after

__all__ = [
    "DEAD",
    "DeadState",
    "Explanation",
    "Lease",
    "LeaseLostError",
    "Recoverer",
    "Stats",
    "attempt",
    "count_dead",
    "dead_states",
    "disable",
    "enable",
    "explain",
    "idempotency_key",
    "is_dead",
    "is_disabled",
    "max_attempts",
    "read_dead",
    "retry_after",
    "retry_all_dead",
    "retry_dead",
    "set_max_attempts",
    "set_retry_after",
]
