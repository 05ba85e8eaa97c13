"""Flows that run: in which order, for how long, kept alive, and what is done when they fail."""

__all__: list[str] = []
