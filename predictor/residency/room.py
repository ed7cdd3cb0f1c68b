"""The memory that models share: which models are loaded, and which to unload for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from predictor.errors import ModelTooLargeError
from predictor.library_exit import contained
from predictor.loading.memory import GIB
from predictor.metrics import ENGINES, MODEL_BYTES, MODEL_UNLOADS
from predictor.residency.resident import Resident

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded

logger = logging.getLogger(__name__)

# Fraction of the maximum wait. After it, a model that takes up the memory gets no new requests.
_SHARE_OF_PATIENCE = 0.25

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Room:
    """The memory of all models; the load or unload in progress holds ``turn``."""

    def __init__(self, max_wait_seconds: float, release: Callable[[], None]) -> None:
        self.residents: dict[str, Resident] = {}
        self.turn = asyncio.Lock()
        self._max_wait_seconds = max_wait_seconds
        self._release = release
        self._change = asyncio.Event()

    def notify_change(self) -> None:
        """Wake the waiting loads and unloads, because a request ended and a model may be idle."""
        self._change.set()
        self._change = asyncio.Event()

    async def make(self, resident: Resident, needed: int, budget: float) -> bool:
        """Unload idle models, least recently used first; return False if no request waits anymore.

        Raises:
            ModelTooLargeError: the model exceeds the budget on its own.
        """
        if needed > budget:
            raise ModelTooLargeError(
                f"model {resident.name!r} takes {needed / GIB:.2f} GiB and memory_budget_gib is "
                f"{budget / GIB:.2f}: raise it if the device has more memory"
            )
        patience = time.monotonic() + self._max_wait_seconds * _SHARE_OF_PATIENCE
        try:
            while self._bytes_in_use + needed > budget:
                idle = [one for one in self.residents.values() if one.is_idle]
                if idle:
                    await self._unload(min(idle, key=_last_used))
                elif not resident.waiters:
                    return False
                else:
                    await self._wait_for_an_idle_one(patience - time.monotonic())
        finally:
            self._reopen()
        return True

    async def unload_when_idle(self, resident: Resident) -> bool:
        """Stop new requests and unload the model when idle; return False on a timeout."""
        async with self.turn:
            if resident.loaded is None:
                return True
            resident.is_leaving = True
            try:
                async with asyncio.timeout(self._max_wait_seconds):
                    while not resident.is_idle:
                        await self._change.wait()
            except TimeoutError:
                return False
            else:
                await self._unload(resident)
            finally:
                self._reopen()
            return True

    async def _wait_for_an_idle_one(self, patience: float) -> None:
        if patience <= 0:
            self._close_one()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience if patience > 0 else None):
                await self._change.wait()

    def _close_one(self) -> None:
        """Stop new requests for one model, so that a steady load on it cannot starve the others."""
        loaded = [one for one in self.residents.values() if one.loaded is not None]
        served = [one for one in loaded if not one.waiters]
        if served and not any(one.is_leaving for one in loaded):
            min(served, key=_last_used).is_leaving = True

    def _reopen(self) -> None:
        for resident in self.residents.values():
            resident.is_leaving = False

    async def _unload(self, resident: Resident) -> None:
        held, resident.loaded = [resident.loaded], None
        ENGINES.unwatch(resident.name)
        await in_own_thread(_close, held)
        await in_own_thread(self._release)
        resident.memory_bytes = 0
        MODEL_BYTES.labels(resident.name).set(0)
        MODEL_UNLOADS.labels(resident.name).inc()
        logger.info("model %s is unloaded", resident.name)

    @property
    def _bytes_in_use(self) -> int:
        return sum(resident.memory_bytes for resident in self.residents.values())


def _last_used(resident: Resident) -> float:
    return resident.last_used


def _close(held: list[Loaded | None]) -> None:
    """Close the engine and drop the last reference to the model, which is in ``held``."""
    loaded = held.pop()
    assert loaded is not None
    loaded.engine.close()


async def in_own_thread(work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """Run ``work`` in a new thread; cancelling the call does not stop the work.

    The thread must end with its work: OpenMP counts its idle thread pool as busy, and on a CPU the
    engine's steps would then take twice as long.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
    try:
        return await asyncio.get_running_loop().run_in_executor(
            thread, contained("the thread that loads models")(work), *arguments
        )
    finally:
        thread.shutdown(wait=False)
