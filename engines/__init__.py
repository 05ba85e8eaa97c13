"""Engines on the primitives: what people use instead of a platform."""

__all__: list[str] = []
