"""One HTTP request of a webhook: to an allowed address only, and with a bound on everything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from jobs.webhook_target import Network, is_allowed

# A name can have many addresses; the first ones that accept a connection are enough.
_MOST_ADDRESSES = 3
_RESOLVERS = 32


class WebhookFailedError(Exception):
    """The receiver sent no valid response; the text says why."""


class WebhookClient:
    """Sends webhooks; one connection per request, without redirects and proxies."""

    def __init__(self, networks: Sequence[Network], seconds: float) -> None:
        """``seconds`` bounds a request as a whole, ``networks`` are allowed like the internet."""
        self._networks = networks
        self._seconds = seconds
        # One address does not take the time of the others.
        timeout = httpx.Timeout(seconds, connect=seconds / _MOST_ADDRESSES)
        self._extensions = {"timeout": timeout.as_dict()}
        # Without a client around it, which would keep the cookies of receivers and use the proxies
        # of the environment. Its certificate authorities do count (SSL_CERT_FILE).
        self._transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )
        # Names that resolve slowly must not occupy the threads of the jobs.
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "webhook-dns")

    async def close(self) -> None:
        """Close all connections."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        await self._transport.aclose()

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status of the response; its body is not read.

        Raises:
            WebhookFailedError: the address is refused, or there is no valid response in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._send(httpx.URL(url), headers, body)
        except TimeoutError:
            reason = f"no response within {self._seconds:g} seconds"
        except (httpx.HTTPError, OSError) as error:
            reason = str(error) or "the connection failed"
        raise WebhookFailedError(reason)

    async def _send(self, url: httpx.URL, headers: dict[str, str], body: bytes) -> int:
        addresses = await self._addresses(url)
        for address in addresses[:-1]:
            try:
                return await self._send_to(address, url, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._send_to(addresses[-1], url, headers, body)

    async def _send_to(
        self, address: str, url: httpx.URL, headers: dict[str, str], body: bytes
    ) -> int:
        """Connect to the address that was checked; the name is for TLS and for ``Host`` only."""
        request = httpx.Request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={**headers, "host": url.netloc.decode()},
            extensions={**self._extensions, "sni_hostname": url.raw_host.decode()},
        )
        response = await self._transport.handle_async_request(request)
        await response.aclose()
        return response.status_code

    async def _addresses(self, url: httpx.URL) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            # ASCII, as IDNA encodes the name.
            name = url.raw_host.decode()
            look_up = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
            found = await loop.run_in_executor(self._resolvers, look_up)
        except (OSError, UnicodeError):
            raise WebhookFailedError("the name of the host has no address") from None
        every = dict.fromkeys(str(info[4][0]) for info in found)
        allowed = [one for one in every if is_allowed(one, self._networks)]
        if not allowed:
            raise WebhookFailedError("the address of the host is not public (webhook_networks)")
        return allowed[:_MOST_ADDRESSES]
