"""The thread of an engine: takes turns, and leaves no request without an answer when it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from predictor.engine import cpu_threads
from predictor.engine.faults import DeviceLostError, raise_if_device_is_lost
from predictor.engine.inbox import Inbox
from predictor.engine.interfaces import GenerationCancelledError
from predictor.engine.watchdog import Watchdog
from predictor.errors import GenerationFailedError, ModelUnavailableError

logger = logging.getLogger(__name__)

# Longer than a step, and short enough that a pod whose engine hangs ends by itself.
_CLOSE_SECONDS = 5.0
# About the time until Kubernetes has noticed and restarted the container.
_RESTART_SECONDS = 60.0


class Worker:
    """Calls ``take_turn`` on its own thread until the inbox is closed.

    An exception from a turn fails all requests, and the thread continues. Anything that ends the
    thread, such as a lost GPU or ``SystemExit``, also fails all later requests at once.
    ``abandon`` forgets the requests in flight and fails them with its argument.
    """

    def __init__(
        self,
        inbox: Inbox,
        take_turn: Callable[[], None],
        abandon: Callable[[Exception], None],
        stall_seconds: float,
    ) -> None:
        self._inbox = inbox
        self._take_turn = take_turn
        self._abandon = abandon
        self._failure = ""
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.watchdog = Watchdog(stall_seconds, self._fail_stalled)

    def start(self) -> None:
        """Start the thread and its watchdog."""
        self._thread.start()
        self.watchdog.start()

    @property
    def failure(self) -> str:
        """Why the thread has ended or hangs, as a sentence; empty while it works."""
        return self._failure or self.watchdog.stall

    def check(self) -> None:
        """Reject requests that the thread would never serve.

        Raises:
            ModelUnavailableError: the thread has ended or hangs.
        """
        if self.failure:
            raise _unavailable()

    def end(self, error: BaseException) -> None:
        """Fail all requests, those in flight and later ones; callable from any thread."""
        with self._ending:
            if self._failure:
                return
            self._failure = _reason(error)
        logger.critical("the engine has stopped: %s", self._failure, exc_info=error)
        self._inbox.close(_unavailable())
        self._inbox.fail_all(_stopped())

    def close(self) -> None:
        """End the thread after its current work; do not wait for work that hangs."""
        is_first = not self._inbox.is_closed
        self._inbox.close()
        self.watchdog.close()
        if is_first or self._failure:
            self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._inbox.fail_all(GenerationCancelledError())

    def _run(self) -> None:
        cpu_threads.use_cpu_threads(cpu_threads.ALL)
        try:
            while not self._inbox.is_closed:
                self._turn()
        except BaseException as error:
            self.end(error)
        finally:
            self._abandon(GenerationCancelledError())

    def _turn(self) -> None:
        try:
            self._take_turn()
        except DeviceLostError:
            raise
        except Exception as error:
            raise_if_device_is_lost(error)
            # An internal error (a bug) must not leave callers waiting forever. All at once: a
            # caller who gets the error may send the next request before this returns.
            self._inbox.fail_all(error)
            self._abandon(error)

    def _fail_stalled(self) -> None:
        """Answer the callers; if the thread moves again, it serves later requests."""
        self._inbox.fail_waiting(_unavailable())
        self._inbox.fail_all(_stopped())


def _reason(error: BaseException) -> str:
    if isinstance(error, DeviceLostError):
        return f"the GPU fails every call ({error})"
    return "its thread ended with an error; the log has the cause"


def _unavailable() -> ModelUnavailableError:
    return ModelUnavailableError(
        "the model's engine has stopped or hangs; try again later", _RESTART_SECONDS
    )


def _stopped() -> GenerationFailedError:
    return GenerationFailedError(
        "the engine stopped while it generated the picture; the server's log has the cause"
    )
