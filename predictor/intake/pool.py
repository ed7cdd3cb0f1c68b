"""A bounded number of reader processes, and a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from predictor.errors import BodyReaderKilledError, OverloadedError
from predictor.intake.reader_process import ReaderProcess, RemoteImages
from predictor.library_exit import contained
from predictor.wire_formats import PREDICT, Message

logger = logging.getLogger(__name__)

Read = TypeVar("Read")
# From a body, without its pictures, and their source.
Decode = Callable[[Any, RemoteImages], Read]

# Each takes up to ``reader.memory_bytes``.
_PROCESSES = 2
# Bodies in front of them, which are in the server's memory.
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 256 * 2**20
# Most bodies are read within this time; to kill and restart a process takes half a second.
_GRACE_SECONDS = 1.0
# The kernel bounds the CPU time; a process that is stopped or waits for a disk uses none.
_HANG_SECONDS = 60.0


class _Reading(Generic[Read]):
    """One body on its way through a process; ``abandon`` may come from another thread."""

    def __init__(self, payload: Any, decode: Decode[Read], max_pixels: int) -> None:
        is_message = isinstance(payload, Message)
        self._message = payload if is_message else Message(PREDICT, payload)
        self._decode = decode
        self._max_pixels = max_pixels
        self._process: ReaderProcess | None = None
        self._is_abandoned = self._is_hung = False
        self._changing = threading.Lock()

    @property
    def size(self) -> int:
        """The length of the body in bytes; 0 if it is parsed already."""
        content = self._message.content
        return len(content) if isinstance(content, bytes) else 0

    @property
    def may_be_repeated(self) -> bool:
        """Whether another process may read it after a kill: the kill was not ours."""
        return not self._is_abandoned and not self._is_hung

    def run(self, process: ReaderProcess) -> Read:
        """Read the body with ``process``, which is killed if it hangs.

        Raises:
            BodyReaderKilledError: the process hung, or was killed.
        """
        with self._changing:
            self._process = process
        timer = threading.Timer(_HANG_SECONDS, self._end_hang)
        timer.start()
        try:
            return self._read(process)
        except BodyReaderKilledError:
            if not self._is_hung:
                raise
            reason = f"the process that reads pictures did not answer within {_HANG_SECONDS:g} s"
            logger.warning("%s: killed it", reason)
            raise BodyReaderKilledError(f"{reason}; try again") from None
        finally:
            timer.cancel()
            with self._changing:
                self._process = None

    def abandon(self) -> None:
        """Kill the process if it still reads this body."""
        with self._changing:
            self._is_abandoned = True
            if self._process is not None:
                self._process.kill()

    def _end_hang(self) -> None:
        with self._changing:
            if self._process is not None:
                self._is_hung = True
                self._process.kill()

    def _read(self, process: ReaderProcess) -> Read:
        message = self._message
        is_parsed = not isinstance(message.content, bytes)
        header = {
            "ask": "document",
            "max_pixels": self._max_pixels,
            "wire_format": message.wire_format.name,
            "headers": message.content_headers,
        }
        _, document = process.ask(header, b"" if is_parsed else message.content)
        return self._decode(message.content if is_parsed else document, RemoteImages(process))


class ReaderPool:
    """Reads bodies in other processes, in order of arrival."""

    def __init__(self, max_waiting: int = _MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._threads = ThreadPoolExecutor(_PROCESSES, "reader")
        self._idle: SimpleQueue[ReaderProcess] = SimpleQueue()
        self._processes: set[ReaderProcess] = set()
        self._readings: dict[Future[Any], _Reading[Any]] = {}
        self._changing = threading.Lock()
        self._is_closed = False

    def start(self) -> None:
        """Start the processes that no body has started yet, so that none has to wait for one."""
        for _ in range(_PROCESSES - len(self._processes)):
            self._idle.put(self._started())

    def close(self) -> None:
        """Kill the processes; bodies that wait or are being read fail."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._changing:
            processes = list(self._processes)
        for process in processes:
            process.kill()
        self._threads.shutdown()
        for process in processes:
            process.close()

    async def read(self, payload: Any, decode: Decode[Read], max_pixels: int) -> Read:
        """Read a ``Message``, or a body of ``:predict``, as bytes or already parsed.

        ``decode`` runs on a thread of the pool.

        A body whose caller leaves is dropped from the queue. If a process reads it already, it has
        a second to finish; then the process is killed.

        Raises:
            InvalidRequestError: the request is invalid.
            OverloadedError: too many bodies are waiting.
            BodyReaderKilledError: the reader hung, or another process killed two of them; a retry
                may succeed.
            GenerationFailedError: a bug ended the reading.
        """
        reading = _Reading(payload, decode, max_pixels)
        future = self._submit(reading)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(_GRACE_SECONDS, reading.abandon)
            raise

    def _submit(self, reading: _Reading[Read]) -> Future[Read]:
        with self._changing:
            waiting = len(self._readings) - _PROCESSES
            size = reading.size + sum(one.size for one in self._readings.values())
        if waiting >= self._max_waiting or size > _MAX_WAITING_BYTES:
            raise OverloadedError("too many requests with pictures are waiting; try again later")
        future = self._threads.submit(self._run, reading)
        with self._changing:
            self._readings[future] = reading
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[Any]) -> None:
        with self._changing:
            del self._readings[future]

    @contained("reading the body")
    def _run(self, reading: _Reading[Read]) -> Read:
        try:
            return self._read(reading)
        except BodyReaderKilledError:
            if self._is_closed or not reading.may_be_repeated:
                raise
            return self._read(reading)

    def _read(self, reading: _Reading[Read]) -> Read:
        process = self._idle_process()
        try:
            return reading.run(process)
        finally:
            self._put_back(process)

    def _idle_process(self) -> ReaderProcess:
        while True:
            try:
                process = self._idle.get_nowait()
            except Empty:
                return self._started()
            if process.is_alive:
                return process
            self._put_back(process)

    def _put_back(self, process: ReaderProcess) -> None:
        if process.is_alive:
            self._idle.put(process)
            return
        process.close()
        with self._changing:
            self._processes.discard(process)

    def _started(self) -> ReaderProcess:
        process = ReaderProcess()
        with self._changing:
            self._processes.add(process)
        return process


READERS = ReaderPool()
"""The readers of this server, shared by all its models."""
