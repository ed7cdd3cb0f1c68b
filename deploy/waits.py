"""How long a command waits, and what it prints meanwhile."""

from __future__ import annotations

import time

from deploy.console import Reporter
from deploy.errors import NotReadyError
from deploy.explain import Explanation


class Deadline:
    """So many seconds from now, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end

    def at_most(self, seconds: float) -> float:
        """``seconds``, or what is left where that is less; never quite nothing."""
        return max(0.1, min(seconds, self._end - time.monotonic()))

    def share(self, seconds: float) -> float:
        """``seconds``, or a quarter of the limit where that is less."""
        return min(seconds, self._seconds / 4)

    def check(self, state: str, explanation: Explanation | None) -> None:
        """Raise NotReadyError once the time is up, with the reason of the wait."""
        if self.is_over:
            why = f": {explanation}" if explanation else "."
            raise NotReadyError(
                f"{state} after {self._seconds:.0f} s{why}\n"
                "Nothing was undone; `up` again takes up the wait (--timeout makes it longer)."
            )


class Waits:
    """Prints each reason of a wait once, however often a loop finds it.

    For the first ``grace`` seconds a reason that needs action is held back: most of them pass.
    """

    def __init__(self, reporter: Reporter, grace: float = 0.0) -> None:
        self._reporter = reporter
        self._grace_end = time.monotonic() + grace
        self._told: Explanation | None = None

    def at_most(self, seconds: float) -> float:
        """``seconds``, or what is left of the grace where that is less."""
        left = self._grace_end - time.monotonic()
        return min(seconds, left) if left > 0 else seconds

    def tell(self, explanation: Explanation) -> None:
        """Print why nothing happens, unless that was printed last."""
        if explanation.advice and time.monotonic() < self._grace_end:
            return
        if explanation != self._told:
            self._told = explanation
            self._reporter.waits(explanation)
