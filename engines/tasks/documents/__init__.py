"""Documents that declare tasks: how they are read, checked and named."""

__all__: list[str] = []
