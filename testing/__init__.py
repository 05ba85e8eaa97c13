"""For tests of flows and of drivers: find what a crash or a race would break."""

__all__: list[str] = []
