"""Loads a model when it is asked for: one load for all who wait, whose wait is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import (
    ModelLoadError,
    ModelTooLargeError,
    ModelUnavailableError,
    OverloadedError,
)
from predictor.loading.memory import GIB
from predictor.metrics import ENGINES, MODEL_BYTES, MODEL_LOAD_SECONDS, MODEL_LOADS, begin_series
from predictor.residency.resident import Failure, Resident
from predictor.residency.room import Room, in_own_thread

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """What loads a model; never called on the event loop."""

    def prepare(self) -> None:
        """Import what takes seconds; called once, before all else."""

    def budget_bytes(self) -> float:
        """What all models may take together; asked once, before the first is loaded."""

    def read(self, folder: Path) -> Checkpoint:
        """The published folder, without its weights.

        Raises:
            ModelLoadError: it is incomplete.
        """

    def expected_bytes(self, checkpoint: Checkpoint) -> int:
        """What a model will take.

        Raises:
            ModelLoadError: one of its files cannot be read.
        """

    def load(self, checkpoint: Checkpoint) -> Loaded:
        """A warm engine, after seconds to minutes.

        Raises:
            ModelLoadError: it cannot be served.
        """

    def release(self) -> None:
        """Give the memory back of what nothing refers to any more."""


class Residency:
    """The models of this process by name, and what is loaded of them."""

    def __init__(self, loader: Loader, *, max_wait_seconds: float, max_waiters: int) -> None:
        self._loader = loader
        self._max_wait_seconds = max_wait_seconds
        self._max_waiters = max_waiters
        self._room = Room(max_wait_seconds, loader.release)
        self._residents = self._room.residents
        self._budget: float | None = None

    def add(self, name: str, path: Path) -> None:
        """Serve what is published at ``path``, a link or a folder, from now on."""
        self._residents.setdefault(name, Resident(name, path))
        begin_series(name)

    def __getitem__(self, name: str) -> Resident:
        return self._residents[name]

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Loaded]:
        """The model, loaded first where it is not, and kept for as long as it is used.

        Raises:
            ModelUnavailableError: it did not load, or not in time.
            OverloadedError: too many requests wait for it already.
        """
        resident = self._residents[name]
        await self._wait_until_open(resident)
        assert resident.loaded is not None
        with self.keep(name):
            yield resident.loaded

    @contextlib.contextmanager
    def keep(self, name: str) -> Iterator[None]:
        """Keep a model that is in use from being unloaded, beyond the end of ``use``."""
        try:
            with self._residents[name].used():
                yield
        finally:
            self._room.tell_change()

    async def load(self, name: str) -> None:
        """Load the model, anew where another revision has been published since.

        Raises:
            ModelUnavailableError: it did not load, or not in time.
        """
        resident = self._residents[name]
        if resident.is_open and resident.folder != await asyncio.to_thread(resident.path.resolve):
            await self.unload(name)
        await self._wait_until_open(resident)

    async def prepare(self) -> None:
        """Import what every load needs.

        Raises:
            ModelLoadError: the installation is broken.
        """
        try:
            # Requests may come already: their loads take their turns after this.
            async with self._room.turn:
                await in_own_thread(self._loader.prepare)
        except Exception as error:
            logger.exception("the imports failed")
            raise ModelLoadError(f"loading failed: {error}") from None

    async def preload(self, names: Iterable[str]) -> None:
        """Load these, for however long it takes.

        Raises:
            ModelLoadError: the first that cannot be served.
        """
        for resident in [self._residents[name] for name in names]:
            with self._waiting(resident):
                while not resident.is_open:
                    await asyncio.wait([self._loading(resident)])
                    if resident.failure:
                        raise ModelLoadError(resident.failure.cause)

    async def unload(self, name: str) -> None:
        """Take the model out of memory once nobody uses it; who asks meanwhile waits.

        Raises:
            ModelUnavailableError: it was not idle in time.
        """
        # A task: whoever asked for it may leave while it is under way.
        unloading = asyncio.create_task(self._room.unload_when_idle(self._residents[name]))
        if not await asyncio.shield(unloading):
            raise ModelUnavailableError(f"model {name!r} is in use; try again later")

    def close(self) -> None:
        """Give up what is queued and running."""
        for resident in self._residents.values():
            if resident.loaded is not None:
                resident.loaded.engine.close()

    async def _wait_until_open(self, resident: Resident) -> None:
        if resident.is_open:
            return
        if resident.waiters >= self._max_waiters:
            raise OverloadedError(
                f"{resident.waiters} requests wait for model {resident.name!r} to be loaded; "
                "try again later"
            )
        try:
            with self._waiting(resident):
                async with asyncio.timeout(self._max_wait_seconds):
                    await self._load_unless_it_just_failed(resident)
        except TimeoutError:
            raise ModelUnavailableError(
                f"model {resident.name!r} is not loaded yet after {self._max_wait_seconds:g} s; "
                "try again later"
            ) from None

    @contextlib.contextmanager
    def _waiting(self, resident: Resident) -> Iterator[None]:
        resident.waiters += 1
        try:
            yield
        finally:
            resident.waiters -= 1
            self._room.tell_change()

    async def _load_unless_it_just_failed(self, resident: Resident) -> None:
        while not resident.is_open:
            failure = resident.failure
            if failure and failure.seconds_left and await _is_unchanged(resident, failure):
                raise ModelUnavailableError(failure.told, failure.seconds_left)
            # Unlike an await, this leaves the load alone when the caller leaves.
            await asyncio.wait([self._loading(resident)])

    def _loading(self, resident: Resident) -> asyncio.Task[None]:
        """The one load of the model, for all who wait for it."""
        if resident.loading is None:
            resident.loading = asyncio.create_task(self._load_in_turn(resident))
        return resident.loading

    async def _load_in_turn(self, resident: Resident) -> None:
        try:
            async with self._room.turn:
                if resident.loaded is None:
                    await self._load(resident)
        finally:
            resident.loading = None

    async def _load(self, resident: Resident) -> None:
        folder, started = resident.path, time.perf_counter()
        try:
            # A published name is a link that may be switched: a load must not mix two revisions.
            folder = await asyncio.to_thread(resident.path.resolve)
            checkpoint = await in_own_thread(self._loader.read, folder)
            needed = await in_own_thread(self._loader.expected_bytes, checkpoint)
            if not await self._room.make(resident, needed, await self._budget_bytes()):
                return
            loaded = await in_own_thread(self._loader.load, checkpoint)
        except Exception as error:
            _note_failure(resident, folder, error)
        else:
            resident.loaded, resident.folder, resident.failure = loaded, folder, None
            resident.memory_bytes = max(needed, loaded.memory_bytes)
            resident.last_used = time.monotonic()
            _note_success(resident, time.perf_counter() - started)
            return
        # Past the handler: its traceback would keep what was loaded so far.
        await in_own_thread(self._loader.release)

    async def _budget_bytes(self) -> float:
        if self._budget is None:
            self._budget = await in_own_thread(self._loader.budget_bytes)
        return self._budget


async def _is_unchanged(resident: Resident, failure: Failure) -> bool:
    """Whether what failed is still what is published: another revision deserves a try at once."""
    return failure.folder == await asyncio.to_thread(resident.path.resolve)


def _note_success(resident: Resident, seconds: float) -> None:
    assert resident.loaded is not None
    ENGINES.watch(resident.name, resident.loaded.engine)
    MODEL_BYTES.labels(resident.name).set(resident.memory_bytes)
    MODEL_LOADS.labels(resident.name, "loaded").inc()
    MODEL_LOAD_SECONDS.labels(resident.name).observe(seconds)
    logger.info(
        "model %s is ready after %.1f s: %.2f GiB, revision %s",
        resident.name,
        seconds,
        resident.memory_bytes / GIB,
        resident.loaded.profile.revision,
    )


def _note_failure(resident: Resident, folder: Path, error: Exception) -> None:
    cause, told = str(error), f"model {resident.name!r} could not be loaded; the log has the cause"
    if isinstance(error, ModelTooLargeError):
        told = cause
    if not isinstance(error, ModelLoadError):
        # A broken installation, say.
        cause = f"loading failed: {error}"
        logger.error("model %s", resident.name, exc_info=error)
    logger.error("model %s does not load: %s", resident.name, cause)
    resident.failure = Failure.after(resident.failure, folder, cause, told)
    MODEL_LOADS.labels(resident.name, "failed").inc()
