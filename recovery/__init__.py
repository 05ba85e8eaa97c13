"""Recovery: resumes work interrupted by a crash.

:class:`Recoverer` does it, in one of all processes; :class:`Lease` elects that one, and serves
other purposes as well. The rules by which a state is recovered are stored with it: see
:func:`set_retry_after`, :func:`set_max_attempts` and :func:`disable`. States that were ended by
force are found by :func:`dead_states`, and go on with :func:`retry_dead`. :func:`explain` says why
a state does not move.

:class:`Consumer` reads the log durably, and :class:`Retention` keeps the store bounded; both have
one leader among all processes as well.
"""

from flowstate.errors import LeaseLostError
from flowstate.recovery.consumer import Consumer
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
from flowstate.recovery.place import DeadLetter
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
from flowstate.recovery.recoverer import Recoverer, Stats
from flowstate.recovery.retention import Retention, RetentionStats
from flowstate.recovery_rules import retry_after

__all__ = [
    "Consumer",
    "DEAD",
    "DeadLetter",
    "DeadState",
    "Explanation",
    "Lease",
    "LeaseLostError",
    "Recoverer",
    "Retention",
    "RetentionStats",
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
