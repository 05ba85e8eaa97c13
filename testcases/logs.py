"""What the library logs while a case provokes it."""

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["errors_logged"]


class _Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep."""
        self.found.append(record)


@contextlib.contextmanager
def errors_logged() -> Iterator[list[logging.LogRecord]]:
    """Keep the errors that are logged meanwhile, and show them nowhere else."""
    logger = logging.getLogger("flowstate")
    records, propagate, disabled = _Records(), logger.propagate, logging.root.manager.disable
    logger.addHandler(records)
    logger.propagate = False
    logging.disable(logging.NOTSET)
    try:
        yield records.found
    finally:
        logging.disable(disabled)
        logger.propagate = propagate
        logger.removeHandler(records)
