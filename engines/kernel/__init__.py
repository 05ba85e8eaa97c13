"""What engines have in common: code with named stops, instances, and turns."""

__all__: list[str] = []
