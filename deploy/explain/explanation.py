"""One reason, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """``fatal`` is what waiting cannot mend; without ``advice`` there is nothing to do but wait."""

    reason: str
    advice: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.reason}\n{self.advice}" if self.advice else self.reason
