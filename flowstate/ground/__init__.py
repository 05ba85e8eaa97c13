"""What all the rest stands on: bounds, validators, tasks, batching, counts."""

__all__: list[str] = []
