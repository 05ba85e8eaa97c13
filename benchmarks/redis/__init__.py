"""Redis: beside bare scripts, and on a growing store."""
