"""What one request uses of the limits of its key and its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Literal

from predictor.access.rate_storage import RateStorage, StorageGoneError
from predictor.access.rates import Counter, Usage
from predictor.errors import InvalidRequestError, LimitsUnavailableError, RateLimitedError

_CURRENT: ContextVar[Spending | None] = ContextVar("spending", default=None)


class Spending:
    """Charges one request, and gives back what the server can if it rejects the request.

    A request that does not fit is not charged at all. While it is being rejected, it may hold a
    part of the limit for the time of one round trip, so that another request is rejected too; more
    than the limit is never used.
    """

    def __init__(
        self,
        storage: RateStorage,
        counters: Sequence[Counter],
        when_gone: Literal["open", "closed"] = "open",
    ) -> None:
        self._storage = storage
        self._counters = counters
        self._when_gone = when_gone
        self._charged: list[tuple[Counter, int]] = []
        self._refusing: Counter | None = None

    def begin(self) -> None:
        """Make this the spending that ``charge`` charges in the current task."""
        _CURRENT.set(self)

    async def charge(self, amounts: Mapping[str, int]) -> None:
        """Charge amounts by unit; ``megapixels`` in pixels.

        Raises:
            RateLimitedError: a limit is reached.
            InvalidRequestError: the request takes more than a whole minute allows.
            LimitsUnavailableError: the storage does not answer, and the limits fail closed.
        """
        costs = [(one, amounts[one.unit]) for one in self._counters if amounts.get(one.unit)]
        for counter, cost in costs:
            if cost > counter.item.amount:
                raise InvalidRequestError("", f"the request takes more than {counter}")
        try:
            fitting = await self._storage.add(costs)
            charged = [one for one, fits in zip(costs, fitting, strict=True) if fits]
            refused = [one for one, fits in zip(costs, fitting, strict=True) if not fits]
            if refused:
                await self._give_back(charged)
                raise await self._refusal(refused)
            self._charged += charged
        except StorageGoneError:
            if self._when_gone == "closed":
                raise LimitsUnavailableError(
                    "the server cannot check the rate limits now; send the request again"
                ) from None

    def keep_request(self) -> None:
        """Do not give back the request itself: it has cost the server work already."""
        self._charged = [one for one in self._charged if one[0].unit != "requests"]

    async def refund(self) -> None:
        """Give back what was charged, because the server rejected the request."""
        charged, self._charged = self._charged, []
        try:
            await self._give_back(charged)
        except StorageGoneError:
            return

    async def tightest(self) -> tuple[Counter, Usage] | None:
        """The counter that rejected the request, or the one with the least left."""
        counters = [self._refusing] if self._refusing else self._counters
        try:
            usages = await self._storage.usage(counters)
        except StorageGoneError:
            return None
        states = zip(counters, usages, strict=True)
        return min(states, key=lambda one: 1 - one[1].used / one[0].item.amount, default=None)

    async def _give_back(self, charged: Sequence[tuple[Counter, int]]) -> None:
        await self._storage.add([(counter, -cost) for counter, cost in charged])

    async def _refusal(self, refused: Sequence[tuple[Counter, int]]) -> RateLimitedError:
        """The error for the counter that takes the longest to have room."""
        usages = await self._storage.usage([counter for counter, _ in refused])
        seconds, self._refusing = max(
            (
                (usage.wait_seconds(cost, counter.item.amount), counter)
                for (counter, cost), usage in zip(refused, usages, strict=True)
            ),
            key=lambda one: one[0],
        )
        return RateLimitedError(f"the limit of {self._refusing} is reached", seconds)


async def charge_pictures(pictures: int, pixels: int) -> None:
    """Charge the current request for its pictures, before the engine sees them.

    Raises:
        As ``Spending.charge``.
    """
    if spending := _CURRENT.get():
        await spending.charge({"pictures": pictures, "megapixels": pixels})


def keep_request() -> None:
    """Charge for the current request itself even if it is rejected later: its body was read."""
    if spending := _CURRENT.get():
        spending.keep_request()
