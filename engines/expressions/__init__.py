"""Expressions in jq, evaluated in processes that can be killed."""

__all__: list[str] = []
