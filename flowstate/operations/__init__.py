"""What an engine does with states by their ids, and with delays that fire."""

__all__: list[str] = []
