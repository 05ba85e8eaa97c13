"""Histories of what processes did to a store, and the checker that judges them."""

__all__: list[str] = []
