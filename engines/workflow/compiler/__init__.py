"""Turns an ``async def`` into code that can be entered at each of its stops."""

__all__: list[str] = []
