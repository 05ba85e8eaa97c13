"""What tasks call: HTTP and other protocols, processes, databases and functions."""

__all__: list[str] = []
