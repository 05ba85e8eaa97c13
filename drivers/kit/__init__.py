"""What every driver would write again: for authors of drivers, not for users of one.

- :mod:`~flowstate.drivers.kit.base`: opening, closing, and news of the store.
- :mod:`~flowstate.drivers.kit.records`: from stored rows to values, damage included.
- :mod:`~flowstate.drivers.kit.scanning`: pages of stores that read their rows one by one.
- :mod:`~flowstate.drivers.kit.resolving`: batches that fail, replies that are lost.
- :mod:`~flowstate.drivers.kit.threads`: a thread for what blocks.
- :mod:`~flowstate.drivers.kit.times`: microseconds since 1970.
- :mod:`~flowstate.drivers.kit.event_count`: waiting for the next event.
"""

__all__: list[str] = []
