"""Loads a model on request. All waiting requests share one load, and their wait is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import (
    ModelLoadError,
    ModelUnavailableError,
    OverloadedError,
    ShuttingDownError,
)
from predictor.metrics import LOAD_WAITERS, begin_series
from predictor.residency.outcome import LoadClock, note_failure, note_success
from predictor.residency.resident import Failure, Resident
from predictor.residency.room import Room, in_own_thread

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """Loads models; never called on the event loop."""

    def prepare(self) -> None:
        """Import heavy packages, which takes seconds; called once, before anything else."""

    def budget_bytes(self) -> float:
        """Return the bytes that all models may take together; called once, before any load."""

    def read(self, folder: Path) -> Checkpoint:
        """Read the published folder, without its weights.

        Raises:
            ModelLoadError: the folder is incomplete.
        """

    def expected_bytes(self, checkpoint: Checkpoint) -> int:
        """Estimate the bytes that a model will take.

        Raises:
            ModelLoadError: one of its files cannot be read.
        """

    def load(self, checkpoint: Checkpoint, on_read: Callable[[], object]) -> Loaded:
        """Load a warm engine, which takes seconds to minutes.

        ``on_read`` is called once the weights are in memory, before the warm-up.

        Raises:
            ModelLoadError: the checkpoint cannot be served.
        """

    def release(self) -> None:
        """Return unreferenced memory to the device and to the operating system."""


class Residency:
    """The models of this process by name, loaded or not."""

    def __init__(self, loader: Loader, *, max_wait_seconds: float, max_waiters: int) -> None:
        self._loader = loader
        self._max_wait_seconds = max_wait_seconds
        self._max_waiters = max_waiters
        self._room = Room(max_wait_seconds, loader.release)
        self._residents = self._room.residents
        self._budget: float | None = None
        self._is_prepared = False
        self._refuses_loads = False

    def add(self, name: str, path: Path) -> None:
        """Serve the model published at ``path``, a link or a folder."""
        resident = self._residents.setdefault(name, Resident(name, path))
        begin_series(name)
        LOAD_WAITERS.labels(name).set_function(lambda: resident.waiting_requests)

    def __getitem__(self, name: str) -> Resident:
        return self._residents[name]

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Loaded]:
        """Load the model if needed, and keep it loaded inside the context.

        Raises:
            ModelUnavailableError: the model did not load, or not in time.
            OverloadedError: too many requests already wait for it.
            ShuttingDownError: it is not in memory, and the process ends.
        """
        resident = self._residents[name]
        await self._wait_until_open(resident)
        assert resident.loaded is not None
        with self.keep(name):
            yield resident.loaded

    @contextlib.contextmanager
    def keep(self, name: str) -> Iterator[None]:
        """Keep a model in use loaded, even after ``use`` ends."""
        try:
            with self._residents[name].used():
                yield
        finally:
            self._room.notify_change()

    async def load(self, name: str) -> None:
        """Load the model, or reload it if another revision has been published since.

        Raises:
            ModelUnavailableError: the model did not load, or not in time.
        """
        resident = self._residents[name]
        if resident.is_open and resident.folder != await asyncio.to_thread(resident.path.resolve):
            await self.unload(name)
        await self._wait_until_open(resident)

    async def prepare(self) -> None:
        """Import the packages that every load needs.

        Raises:
            ModelLoadError: the installation is broken.
        """
        try:
            # Requests may already arrive; their loads wait for this turn to end.
            async with self._room.turn:
                await in_own_thread(self._loader.prepare)
                self._is_prepared = True
        except Exception as error:
            logger.exception("the imports failed")
            raise ModelLoadError(f"loading failed: {error}") from None

    async def preload(self, names: Iterable[str]) -> None:
        """Load these models, without a timeout.

        Raises:
            ModelLoadError: the cause of the first failure.
        """
        for resident in [self._residents[name] for name in names]:
            resident.is_preloading = True
            try:
                await self._preload(resident)
            finally:
                resident.is_preloading = False

    async def unload(self, name: str) -> None:
        """Unload the model once it is idle; new requests for it wait.

        Raises:
            ModelUnavailableError: the model did not become idle in time.
        """
        # In a task, because the caller may disconnect while it runs.
        unloading = asyncio.create_task(self._room.unload_when_idle(self._residents[name]))
        if not await asyncio.shield(unloading):
            raise ModelUnavailableError(f"model {name!r} is in use; try again later")

    @property
    def engine_failure(self) -> str:
        """Which loaded model's engine has stopped or hangs, and why; empty if all work."""
        for resident in self._residents.values():
            if reason := resident.engine_failure:
                return f"The engine of model {resident.name!r}: {reason}"
        return ""

    def refuse_loads(self) -> None:
        """Cancel all loads, whose threads end with the process, and accept no more."""
        self._refuses_loads = True
        for resident in self._residents.values():
            if resident.loading is not None:
                resident.loading.cancel()

    def close(self) -> None:
        """Cancel all queued and running requests."""
        for resident in self._residents.values():
            if resident.loaded is not None:
                resident.loaded.engine.close()

    def check_place(self, name: str) -> None:
        """Refuse a request that must wait for the model if too many others already do.

        Raises:
            OverloadedError: too many requests already wait.
        """
        resident = self._residents[name]
        waiting = resident.waiting_requests
        if not resident.is_open and waiting >= self._max_waiters:
            raise OverloadedError(
                f"{waiting} requests already wait for model {resident.name!r} to load; "
                "try again later"
            )

    async def _preload(self, resident: Resident) -> None:
        with self._waiting(resident):
            while not resident.is_open:
                await asyncio.wait([self._loading(resident)])
                if resident.failure:
                    raise ModelLoadError(resident.failure.cause)

    async def _wait_until_open(self, resident: Resident) -> None:
        if resident.is_open:
            return
        self.check_place(resident.name)
        try:
            with self._waiting(resident):
                async with asyncio.timeout(self._max_wait_seconds):
                    await self._load_unless_it_just_failed(resident)
        except TimeoutError:
            raise ModelUnavailableError(
                f"model {resident.name!r} is still loading after {self._max_wait_seconds:g} s; "
                "try again later"
            ) from None

    @contextlib.contextmanager
    def _waiting(self, resident: Resident) -> Iterator[None]:
        resident.waiters += 1
        try:
            yield
        finally:
            resident.waiters -= 1
            self._room.notify_change()

    async def _load_unless_it_just_failed(self, resident: Resident) -> None:
        while not resident.is_open:
            failure = resident.failure
            if failure and failure.seconds_left and await _is_unchanged(resident, failure):
                raise ModelUnavailableError(failure.message, failure.seconds_left)
            # Unlike a plain await, this does not cancel the load when the caller disconnects.
            await asyncio.wait([self._loading(resident)])

    def _loading(self, resident: Resident) -> asyncio.Task[None]:
        """Return the load that all waiting requests share.

        Raises:
            ShuttingDownError: the process ends.
        """
        if self._refuses_loads:
            raise ShuttingDownError(
                "the server shuts down before the model is loaded; send the request again"
            )
        if resident.loading is None:
            resident.loading = asyncio.create_task(self._load_in_turn(resident))
        return resident.loading

    async def _load_in_turn(self, resident: Resident) -> None:
        resident.phase.enter("queued" if self._is_prepared else "importing")
        try:
            async with self._room.turn:
                if resident.loaded is None:
                    await self._load(resident)
        finally:
            resident.loading = None

    async def _load(self, resident: Resident) -> None:
        folder, clock = resident.path, LoadClock()
        try:
            # A published name is a link that may change: a load must not mix revisions.
            folder = await asyncio.to_thread(resident.path.resolve)
            checkpoint = await in_own_thread(self._loader.read, folder)
            needed = await in_own_thread(self._loader.expected_bytes, checkpoint)
            if not await self._room.make(resident, needed, await self._budget_bytes()):
                return
            resident.phase.enter("loading")
            begin_warm_up = partial(_begin_warm_up, resident, clock)
            on_read = partial(asyncio.get_running_loop().call_soon_threadsafe, begin_warm_up)
            loaded = await in_own_thread(self._loader.load, checkpoint, on_read)
        except Exception as error:
            note_failure(resident, folder, error)
        else:
            note_success(resident, checkpoint, loaded, needed, clock)
            return
        # Outside the handler, whose traceback keeps a partial load in memory.
        await in_own_thread(self._loader.release)

    async def _budget_bytes(self) -> float:
        if self._budget is None:
            self._budget = await in_own_thread(self._loader.budget_bytes)
        return self._budget


async def _is_unchanged(resident: Resident, failure: Failure) -> bool:
    """Whether the revision that failed is still published; a new one is tried immediately."""
    return failure.folder == await asyncio.to_thread(resident.path.resolve)


def _begin_warm_up(resident: Resident, clock: LoadClock) -> None:
    clock.note_read()
    resident.phase.enter("warming")
