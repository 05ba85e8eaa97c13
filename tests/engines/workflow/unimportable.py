"""A module that a command line names and that cannot be imported."""

raise NotImplementedError("it cannot be imported")
