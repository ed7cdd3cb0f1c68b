"""Isolates the failure of one item in a batch from the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from predictor.engine.faults import is_out_of_memory, raise_if_device_is_lost, release_cache

logger = logging.getLogger(__name__)


class Fallible(Protocol):
    """An item of a batch that can fail."""

    def fail(self, error: Exception) -> None:
        """Report the failure to the caller."""


Item = TypeVar("Item", bound=Fallible)


def run_isolated(
    work: Callable[[list[Item]], None],
    items: list[Item],
    on_out_of_memory: Callable[[list[Item]], None] = lambda _: None,
) -> None:
    """Run ``work`` on all items together, and retry on fewer of them if it raises.

    When out of memory, retry each half; after any other error, retry each item alone. An item that
    fails alone gets the error. ``work`` must have no effect if it raises.

    Raises:
        DeviceLostError: no retry can succeed.
    """
    try:
        work(items)
    except Exception as error:
        raise_if_device_is_lost(error)
        if len(items) == 1:
            items[0].fail(error)
            return
        did_not_fit = is_out_of_memory(error)
        logger.warning(
            "a batch of %d failed; the engine tries fewer together: %s", len(items), error
        )
    else:
        return
    # Outside the handler, whose traceback keeps the tensors of the failed attempt alive.
    if did_not_fit:
        release_cache()
        on_out_of_memory(items)
    size = len(items) // 2 if did_not_fit else 1
    for start in range(0, len(items), size):
        run_isolated(work, items[start : start + size], on_out_of_memory)
