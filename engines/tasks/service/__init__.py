"""Documents and their instances for programs, people and other machines."""

__all__: list[str] = []
