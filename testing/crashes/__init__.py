"""Flows run again and again, with a crash at another place each time."""

__all__: list[str] = []
