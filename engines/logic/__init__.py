"""State logic: machines whose states are woken for a reason and say what they want next."""

__all__: list[str] = []
