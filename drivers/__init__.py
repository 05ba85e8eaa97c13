"""Drivers: where states are stored. Import the one that you use by its module.

- :mod:`flowstate.drivers.memory`: in this process; for tests and small programs.
- :mod:`flowstate.drivers.sqlite`: one file, several processes; durable.
"""

__all__: list[str] = []
