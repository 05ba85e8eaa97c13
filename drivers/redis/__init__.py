"""The Redis driver. Needs the extra ``flowstate-engine[redis]``."""

try:
    import redis.asyncio  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the Redis driver needs redis: pip install 'flowstate-engine[redis]'"
    ) from error

from flowstate.drivers.redis.driver import RedisDriver

__all__ = ["RedisDriver"]
