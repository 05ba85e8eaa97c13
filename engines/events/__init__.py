"""CloudEvents: published once, found by instances that wait for such ones."""

__all__: list[str] = []
