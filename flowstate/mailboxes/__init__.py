"""Messages to states: kept, taken, delivered, and told apart by their keys."""

__all__: list[str] = []
