"""Deterministic simulation of engines on one store, in a world where everything goes wrong."""

__all__: list[str] = []
