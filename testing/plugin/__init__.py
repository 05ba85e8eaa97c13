"""The plugin for pytest."""

__all__: list[str] = []
