"""Work on many at once that fails for one: the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

logger = logging.getLogger(__name__)


class Fallible(Protocol):
    """Somebody to tell of a failure."""

    def fail(self, error: Exception) -> None:
        """Tell the caller."""


Item = TypeVar("Item", bound=Fallible)


def run_isolated(
    work: Callable[[list[Item]], None],
    items: list[Item],
    on_out_of_memory: Callable[[list[Item]], None] = lambda _: None,
) -> None:
    """Do the work for all items together; where that raises, for fewer of them.

    Out of memory, halves are tried; after any other error, each alone. An item that fails alone is
    told so. ``work`` either raises with nothing done, or is done.
    """
    try:
        work(items)
    except Exception as error:
        if len(items) == 1:
            items[0].fail(error)
            return
        is_out_of_memory = isinstance(error, torch.OutOfMemoryError)
        logger.warning("failed for %d together, tries fewer: %s", len(items), error)
    else:
        return
    # Past the handler: its traceback would keep the tensors of the failed attempt.
    if is_out_of_memory:
        torch.cuda.empty_cache()
        on_out_of_memory(items)
    size = len(items) // 2 if is_out_of_memory else 1
    for start in range(0, len(items), size):
        run_isolated(work, items[start : start + size], on_out_of_memory)
