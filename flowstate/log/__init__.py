"""What is read: pages, the tail of the log, and watches."""

__all__: list[str] = []
