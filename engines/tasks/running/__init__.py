"""How instances of documents run: where they stand, and what is done there."""

__all__: list[str] = []
