"""Follows the log, and begins again after failures."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from flowstate import (
    CompactedError,
    DamagedRevisionError,
    DriverError,
    Engine,
    EngineStoppedError,
    HistoryRewoundError,
    State,
)

__all__ = ["follow"]

logger = logging.getLogger("flowstate.engines")


async def follow(
    engine: Engine,
    labels: Mapping[str, str],
    begin: Callable[[], Awaitable[int]],
    see: Callable[[State], object],
) -> None:
    """Give each new revision with some labels to a function, until the engine stops.

    Args:
        engine: open.
        labels: of the states.
        begin: returns the revision behind which to begin. It is called again when revisions were
            missed.
        see: is given each revision.
    """
    since = None
    while True:
        try:
            since = await begin() if since is None else since
            async with engine.watch(labels=labels, since_rev=since) as watch:
                try:
                    async for state in watch:
                        try:
                            see(state)
                        except Exception:  # One state cannot hide all others.
                            logger.exception("revision %d cannot be followed", state.rev)
                finally:
                    since = watch.cursor
        except EngineStoppedError:
            return
        except DamagedRevisionError as error:
            since = error.rev
        except (CompactedError, HistoryRewoundError):
            since = None
        except DriverError:
            await engine.clock.sleep(1.0, background=True)
