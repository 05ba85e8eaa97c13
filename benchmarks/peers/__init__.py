"""Others that do the same kind of work, measured on the same server in the same run."""
