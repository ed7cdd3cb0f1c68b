"""Work on other threads: an exit that a library requests there fails only that work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from predictor.errors import GenerationFailedError

logger = logging.getLogger(__name__)


@contextmanager
def contained(work: str) -> Iterator[None]:
    """Turn what is not an ``Exception`` into one; also a decorator. ``work`` is for the log.

    A future that holds a ``SystemExit`` ends the event loop that awaits it (``asyncio.Task``), and
    no handler expects the panic of a library in Rust.

    Raises:
        GenerationFailedError: in place of the exit or the panic.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        logger.exception("%s failed", work)
        raise GenerationFailedError(f"{work} failed; the server's log has the cause") from error
