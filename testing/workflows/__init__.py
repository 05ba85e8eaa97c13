"""For tests of workflows: on a fake clock, through crashes, and which stops they cover."""

__all__: list[str] = []
