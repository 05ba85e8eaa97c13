"""A driver over LMDB, as a third party writes it; ``target.py`` is what certifies it."""
