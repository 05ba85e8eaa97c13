"""Outgoing requests: what they may reach, and the client that keeps to that."""

__all__ = ["Outgoing"]


class Outgoing:
    """Rules for outgoing requests."""

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, if all of them may be reached."""
        raise NotImplementedError
