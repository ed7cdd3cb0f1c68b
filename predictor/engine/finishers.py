"""Converts decoded pictures on other threads, so that steps do not wait."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, wait
from typing import Any

from PIL import Image

from predictor.engine import cpu_threads
from predictor.engine.faults import DeviceLostError, device_fault
from predictor.engine.interfaces import Denoiser
from predictor.engine.worker import Worker

# How long ``close`` waits for the conversion of pictures that are decoded.
_FINISH_SECONDS = 5.0


class Finishers:
    """Two threads over ``Denoiser.finish``."""

    def __init__(self, denoiser: Denoiser, worker: Worker) -> None:
        self._denoiser = denoiser
        self._worker = worker
        self._threads = cpu_threads.pool(2, "finisher")
        self._finishing: set[Future[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether pictures are decoded, as far as the device has got, and not converted yet."""
        return bool(self._finishing)

    def convert(
        self,
        decoded: Any,
        shape: Hashable,
        on_picture: Callable[[Image.Image], None],
        on_error: Callable[[BaseException], None],
        after: Sequence[Future[None]] = (),
    ) -> Future[None]:
        """Call one of the two functions on a thread, once the earlier conversions ``after`` end.

        ``shape`` is that of the latents.
        """
        finishing = self._threads.submit(
            self._convert, decoded, shape, on_picture, on_error, [*after]
        )
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        return finishing

    def close(self) -> None:
        """Wait for the conversions, but not for one that hangs."""
        self._threads.shutdown(wait=False)
        _, hanging = wait(self._finishing.copy(), _FINISH_SECONDS)
        # The threads hold the pipeline until they end.
        self._threads.shutdown(wait=not hanging)

    def _convert(
        self,
        decoded: Any,
        shape: Hashable,
        on_picture: Callable[[Image.Image], None],
        on_error: Callable[[BaseException], None],
        after: Sequence[Future[None]],
    ) -> None:
        # They began before this one, so that the two threads never wait for each other.
        wait(after)
        try:
            with self._worker.watchdog.watch("picture conversion", shape):
                picture = self._denoiser.finish(decoded)
        except BaseException as error:
            if fault := device_fault():
                self._worker.end(DeviceLostError(fault))
            on_error(error)
            return
        on_picture(picture)
