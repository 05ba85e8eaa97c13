"""Random programs, done to a store and to a model of it."""

__all__: list[str] = []
