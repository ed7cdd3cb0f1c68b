"""Calls of the predictor: one job as a stream of events, and its capacity."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import socket
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import httpx

from jobs.call_errors import (
    CallFailedError,
    CallRefusedError,
    CallRejectedError,
    error_of_event,
    error_of_response,
)
from jobs.job import Picture
from jobs.settings import Settings
from jobs.strict_json import read_json, write_json

_CONNECT_SECONDS = 10.0
_METRICS_SECONDS = 5.0
# Far above a preview or an error; the result of a job is bounded by ``max_stored_bytes``.
_EVENT_OVERHEAD = 1_048_576
_MOST_STEPS = 1_000_000_000
_FORMAT = re.compile(r"[a-z0-9]{1,16}")
_LANES = re.compile(rb'^diffusion_lanes\{model_name="([^"]*)"\} ([0-9.e+]+)$', re.MULTILINE)


class PredictorClient:
    """The predictor of the settings; one connection per call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        key = settings.predictor_api_key
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(settings.predictor_silence_seconds, connect=_CONNECT_SECONDS),
            # The predictor may close an idle connection just before a call.
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def predict(
        self,
        model: str,
        body: bytes,
        job_id: str,
        on_progress: Callable[[int, int], None],
        on_preview: Callable[[bytes], None],
    ) -> list[Picture]:
        """Generate the pictures of a ``:predict`` body. Cancelling stops the predictor's work.

        ``on_progress`` gets the done and the total steps, ``on_preview`` the data of the event.

        Raises:
            CallError: one of its subclasses says what to do.
        """
        url = f"{self._settings.url_of(model)}/v1/models/{model}:predict"
        headers = {
            "accept": "text/event-stream",
            "content-type": "application/json",
            "x-request-id": job_id,
        }
        has_begun = False
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                has_begun = True
                if response.status_code != HTTPStatus.OK:
                    content = await _start_of(response)
                    retry_after = response.headers.get("retry-after", "")
                    raise error_of_response(response.status_code, content, retry_after)
                return await self._result(response, on_progress, on_preview)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise CallRefusedError("the predictor does not accept connections") from None
        except httpx.TimeoutException:
            seconds = self._settings.predictor_silence_seconds
            reason = f"the predictor sent nothing for {seconds:g} s (predictor_silence_seconds)"
            # A running predictor responds at once; Knative holds the calls of one that is not.
            raise (CallFailedError if has_begun else CallRefusedError)(reason) from None
        except httpx.RequestError:
            reason = "the connection to the predictor ended before the job was done"
            raise CallFailedError(reason) from None

    async def lanes(self, model: str) -> int | None:
        """The most samples in a forward pass, as the predictor has measured; None if unknown.

        The sum over the replicas, if the name in the URL is that of a headless Service. The URL of
        the calls is the second choice, because a mesh or a policy can block connections to pods.
        """
        settings = self._settings
        for base in dict.fromkeys([settings.metrics_url_of(model), settings.url_of(model)]):
            lanes = await self._lanes_behind(httpx.URL(f"{base}/metrics"), model)
            if lanes is not None:
                return lanes
        return None

    async def _lanes_behind(self, url: httpx.URL, model: str) -> int | None:
        replicas = [url.copy_with(host=one) for one in await _addresses(url)]
        found = await asyncio.gather(*(self._lanes_at(one, url, model) for one in replicas))
        known = [lanes for lanes in found if lanes is not None]
        return sum(known) if known else None

    async def _lanes_at(self, replica: httpx.URL, url: httpx.URL, model: str) -> int | None:
        headers = {"host": url.netloc.decode()}
        try:
            response = await self._client.get(replica, headers=headers, timeout=_METRICS_SECONDS)
        except httpx.RequestError:
            return None
        found = {name.decode(): value for name, value in _LANES.findall(response.content)}
        try:
            return int(float(found[model])) if model in found else None
        except (ValueError, OverflowError):
            return None

    async def _result(
        self,
        response: httpx.Response,
        on_progress: Callable[[int, int], None],
        on_preview: Callable[[bytes], None],
    ) -> list[Picture]:
        most = self._settings.max_stored_bytes
        async for name, data in _events(response, most * 4 // 3 + _EVENT_OVERHEAD):
            match name:
                case b"progress":
                    on_progress(*_progress(data))
                case b"preview":
                    on_preview(data)
                case b"result":
                    pictures = await asyncio.to_thread(_pictures, data)
                    if sum(len(picture.content) for picture in pictures) > most:
                        raise _too_large(most)
                    return pictures
                case b"error":
                    raise error_of_event(data)
        raise CallFailedError("the predictor ended the stream before the job was done")


async def _addresses(url: httpx.URL) -> list[str]:
    """The addresses of a host, of one family; with TLS its name, which the certificate has."""
    if url.scheme != "http":
        return [url.host]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    family = min(info[0] for info in found)
    return list(dict.fromkeys(str(info[4][0]) for info in found if info[0] == family))


async def _start_of(response: httpx.Response) -> bytes:
    """The body of an error, or its start if a gateway sends a long page."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _EVENT_OVERHEAD:
            break
    return bytes(content)


def _too_large(most: int) -> CallRejectedError:
    return CallRejectedError(f"the pictures take more than {most} bytes (max_stored_bytes)")


async def _events(response: httpx.Response, most: int) -> AsyncIterator[tuple[bytes, bytes]]:
    """The name and data of each event; the predictor writes each as two lines."""
    buffer = bytearray()
    async for chunk in response.aiter_bytes():
        searched = max(0, len(buffer) - 1)
        buffer += chunk
        while (end := buffer.find(b"\n\n", searched)) >= 0:
            name, _, data = bytes(buffer[:end]).partition(b"\n")
            del buffer[: end + 2]
            searched = 0
            yield name.removeprefix(b"event: "), data.removeprefix(b"data: ")
        if len(buffer) > most:
            raise _too_large(most)


def _progress(data: bytes) -> tuple[int, int]:
    try:
        progress = read_json(data)
        step, steps = progress["step"], progress["steps"]
    except (ValueError, KeyError, TypeError):
        step, steps = None, None
    if not all(type(one) is int and 0 <= one <= _MOST_STEPS for one in (step, steps)):
        raise CallFailedError("the progress from the predictor is not valid")
    return step, steps


def _pictures(data: bytes) -> list[Picture]:
    try:
        pictures = [_picture(one) for one in read_json(data)["predictions"]]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        pictures = []
    if not pictures:
        raise CallFailedError("the result of the predictor is not valid")
    return pictures


def _picture(prediction: dict[str, Any]) -> Picture:
    """A prediction; ``image`` is null if a safety layer blocks the picture."""
    image = prediction.pop("image")
    # The rest becomes a part of the record.
    write_json(prediction)
    if image is None:
        return Picture("", b"", prediction)
    content = base64.b64decode(image["b64"], validate=True)
    # It becomes a header, and no browser may run what it names.
    if not _FORMAT.fullmatch(image["format"]):
        raise ValueError("format")
    return Picture(f"image/{image['format']}", content, prediction)
