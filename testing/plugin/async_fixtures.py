"""Fixtures that need pytest-asyncio; the plugin registers them where it is installed."""

from collections.abc import AsyncIterator

import pytest_asyncio

from flowstate.engine import Engine
from flowstate.testing.plugin.hooks import MakeEngine

__all__ = ["flowstate_engine"]


@pytest_asyncio.fixture
async def flowstate_engine(flowstate_make_engine: MakeEngine) -> AsyncIterator[Engine]:
    """An open engine: on ``flowstate_driver`` if the test asks for it, or in memory."""
    async with flowstate_make_engine() as engine:
        yield engine
