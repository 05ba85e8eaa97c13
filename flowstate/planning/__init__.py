"""From commands to what a driver is given: decided purely, without an ``await``."""

__all__: list[str] = []
