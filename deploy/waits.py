"""How long a command waits, and what it prints meanwhile."""

from __future__ import annotations

import time

from deploy.console import Reporter
from deploy.errors import NotReadyError
from deploy.explain import Explanation


class Deadline:
    """The time limit of a command, shared by all its waits, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end

    def at_most(self, seconds: float) -> float:
        """``seconds``, or the time left if that is less; at least 0.1."""
        return max(0.1, min(seconds, self._end - time.monotonic()))

    def share(self, seconds: float) -> float:
        """``seconds``, or a quarter of the limit if that is less."""
        return min(seconds, self._seconds / 4)

    def check(self, state: str, explanation: Explanation | None) -> None:
        """Raise NotReadyError once the time is up, with the reason for the wait."""
        if self.is_over:
            why = f": {explanation}" if explanation else "."
            raise NotReadyError(
                f"{state} after {self._seconds:.0f} s{why}\n"
                "Nothing was undone. Run `up` again to resume the wait; --timeout extends it."
            )


class Waits:
    """Prints each reason for a wait once, however often a loop finds it.

    For the first ``grace`` seconds it prints no reason that needs action: most of them pass.
    """

    def __init__(self, reporter: Reporter, grace: float = 0.0) -> None:
        self._reporter = reporter
        self._grace_end = time.monotonic() + grace
        self._printed: Explanation | None = None

    def at_most(self, seconds: float) -> float:
        """``seconds``, or what is left of the grace period if that is less."""
        left = self._grace_end - time.monotonic()
        return min(seconds, left) if left > 0 else seconds

    def report(self, explanation: Explanation) -> None:
        """Print why nothing happens, unless that was printed last."""
        if explanation.advice and time.monotonic() < self._grace_end:
            return
        if explanation != self._printed:
            self._printed = explanation
            self._reporter.waits(explanation)
