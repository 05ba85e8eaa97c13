"""Tasks declared in YAML: documents of the Open Workflow DSL, and state machines."""

__all__: list[str] = []
