"""What the server keeps of each caller of A1111's API: the calls in flight and the chosen model.

A1111 has one user, who stops the only job and chooses the only model. Here a caller is an API key,
or an address on a server without keys, and reaches only its own calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from predictor.access.addresses import exact_address
from predictor.errors import InterruptedCallError, NotAuthorizedError
from predictor.request_context import RequestContext, current_request

Response = TypeVar("Response")

# Callers whose choice is kept; beyond that, the one that chose first is forgotten.
_MOST_CHOICES = 1024


class A1111Call:
    """One call in flight."""

    def __init__(self, request: RequestContext) -> None:
        self._request = request
        self._started = time.monotonic()
        self._answering: asyncio.Task[Any] | None = None
        self._is_interrupted = False

    async def run(self, answer: Coroutine[Any, Any, Response]) -> Response:
        """Await the answer.

        Raises:
            InterruptedCallError: ``interrupt`` ended the call.
        """
        self._answering = answering = asyncio.create_task(answer)
        try:
            return await answering
        except asyncio.CancelledError:
            caller_left = bool((task := asyncio.current_task()) and task.cancelling())
            if caller_left or not self._is_interrupted:
                raise
            raise InterruptedCallError("the caller interrupted the call") from None

    def interrupt(self) -> None:
        """Cancel the answer."""
        self._is_interrupted = True
        if self._answering is not None:
            self._answering.cancel()

    @property
    def steps(self) -> tuple[int, int]:
        """Done and total denoising steps; both 0 until the engine has the pictures."""
        progress = self._request.progress
        return (0, 0) if progress is None else (progress.step, progress.steps)

    @property
    def seconds(self) -> float:
        """The time since the call began."""
        return time.monotonic() - self._started


class Callers:
    """The callers of one server process. They are lost with the process, and no pods share them."""

    def __init__(self, trusted_proxies: int) -> None:
        self._trusted_proxies = trusted_proxies
        self._calls: dict[str, list[A1111Call]] = {}
        self._models: OrderedDict[str, str] = OrderedDict()

    def name_of(self, request: Request) -> str:
        """The caller of a request; "" if a proxy hides it."""
        if key := current_request().caller:
            return f"key {key}"
        peer = request.client.host if request.client else ""
        forwarded_for = request.headers.getlist("x-forwarded-for")
        address = exact_address(peer, forwarded_for, self._trusted_proxies)
        return f"address {address}" if address else ""

    def calls(self, caller: str) -> list[A1111Call]:
        """The calls in flight, from the oldest to the newest."""
        return self._calls.get(caller, [])

    @contextmanager
    def call(self, caller: str) -> Iterator[A1111Call]:
        """A call of the caller, in flight until the end of the context."""
        call = A1111Call(current_request())
        calls = self._calls.setdefault(caller, [])
        calls.append(call)
        try:
            yield call
        finally:
            calls.remove(call)
            if not calls:
                self._calls.pop(caller, None)

    def interrupt(self, caller: str) -> None:
        """Interrupt all calls of the caller.

        Raises:
            NotAuthorizedError: the caller is hidden.
        """
        _check_visible(caller)
        for call in self.calls(caller):
            call.interrupt()

    def choose(self, caller: str, model: str) -> None:
        """Use the model for later calls of the caller that name none.

        Raises:
            NotAuthorizedError: the caller is hidden.
        """
        _check_visible(caller)
        self._models[caller] = model
        self._models.move_to_end(caller)
        while len(self._models) > _MOST_CHOICES:
            self._models.popitem(last=False)

    def chosen(self, caller: str) -> str:
        """The model that the caller chose; "" without a choice."""
        return self._models.get(caller, "")


def _check_visible(caller: str) -> None:
    if not caller:
        raise NotAuthorizedError(
            "a proxy hides who sent this request, and others share its address: the operator has "
            "to require keys, or to set trusted_proxies"
        )
