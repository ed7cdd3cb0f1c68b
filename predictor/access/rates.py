"""Rates in requests, pictures and megapixels a minute, and the counters that they apply to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from limits import RateLimitItem, RateLimitItemPerMinute

_PIXELS = 1_000_000


@dataclass(frozen=True)
class Rates:
    """The most that one key or address may use in a minute; 0 is unlimited."""

    requests: float = 0
    pictures: float = 0
    megapixels: float = 0

    def replaced(self, own: Mapping[str, float]) -> Rates:
        """These rates, with some of them replaced."""
        return replace(self, **own)

    def counters(self, owner: str, name: str) -> tuple[Counter, ...]:
        """A counter for each rate that is limited. ``owner`` is the kind: `key` or `address`."""
        given = {unit: getattr(self, unit) for unit in UNITS}
        return tuple(Counter(owner, name, unit, rate) for unit, rate in given.items() if rate)


UNITS = tuple(field.name for field in fields(Rates))


class Counter(NamedTuple):
    """What one key or address uses of one unit, and the most that it may use in a minute."""

    owner: str
    name: str
    unit: str
    rate: float

    @property
    def item(self) -> RateLimitItem:
        """The limit in whole numbers: megapixels are counted in pixels."""
        scale = _PIXELS if self.unit == "megapixels" else 1
        return RateLimitItemPerMinute(max(1, round(self.rate * scale)), namespace="diffusion")

    @property
    def identifiers(self) -> tuple[str, str, str]:
        """The identity of the counter in the storage."""
        return self.owner, self.name, self.unit

    def in_units(self, amount: float) -> float:
        """A number of ``item`` in the counter's unit."""
        return amount / _PIXELS if self.unit == "megapixels" else amount

    def __str__(self) -> str:
        return f"{self.rate:g} {self.unit} a minute of this {self.owner}"


class Usage(NamedTuple):
    """The state of a counter: two windows of a minute, of which the previous one fades out.

    Times are in seconds. The previous window counts in proportion to its remaining time; the
    current one counts in full until its last minute begins.
    https://limits.readthedocs.io/en/stable/strategies.html#sliding-window-counter
    """

    previous: int
    previous_seconds: float
    current: int
    current_seconds: float

    @property
    def used(self) -> int:
        """How much of the limit counts as used now."""
        return max(0, math.floor(self.previous * self.previous_seconds / 60) + self.current)

    @property
    def reset_seconds(self) -> float:
        """The time after which nothing counts as used any more."""
        if not self.current and not self.previous:
            return 0
        return self.current_seconds if self.current else self.previous_seconds

    def wait_seconds(self, cost: int, limit: int) -> int:
        """The time after which ``cost`` fits into ``limit``, if nothing else is used meanwhile."""
        room = limit + 1 - cost - self.current
        if room > 0:
            wait = self.previous_seconds - 60 * room / max(1, self.previous)
        else:
            room = limit + 1 - cost
            wait = self.current_seconds - 60 * room / max(1, self.current)
        # The room begins after that moment, which is not an exact number.
        return max(1, math.floor(wait + 0.01) + 1)


def parse_rates(words: Iterable[str]) -> dict[str, float]:
    """Parse ``requests=60 pictures=10``.

    Raises:
        ValueError: names the word.
    """
    rates: dict[str, float] = {}
    for word in words:
        unit, _, text = word.partition("=")
        try:
            rate = float(text) if unit in UNITS else -1
        except ValueError:
            rate = -1
        if unit in rates or not 0 <= rate < math.inf:
            raise ValueError(
                f"a limit must be one of {', '.join(UNITS)}, once, and a number, as in pictures=10"
            )
        rates[unit] = rate
    return rates
