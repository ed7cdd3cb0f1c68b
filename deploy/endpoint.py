"""Request one picture from the service, and write the curl line that does the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from deploy.errors import PredictError, UsageError
from deploy.objects import Object, dig, name_of
from deploy.workload import deployment_mode, model_name

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP"}
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served: connect to ``address`` with the Host header ``host``."""

    address: str
    host: str
    path: str

    @property
    def url(self) -> str:
        """The full URL of `:predict`."""
        return f"{self.address}{self.path}"


@dataclass(frozen=True)
class Picture:
    """The response's bytes, their format, and the seed that reproduces the picture."""

    content: bytes
    format: str
    seed: str


def endpoint_of(service: Object, address: str | None) -> Endpoint:
    """Read the URL from the status; with ``address`` only its host name is used.

    Raises:
        PredictError: KServe has not given it a URL yet.
    """
    url = dig(service, "status", "url")
    if not url:
        raise PredictError(f"{name_of(service)} has no URL yet; run `status` to see why")
    path = f"/v1/models/{model_name(service)}:predict"
    host = urlsplit(str(url)).netloc
    return Endpoint((address or str(url)).rstrip("/"), host, path)


def read_key(file: Path | None) -> str:
    """The key in a file, without the newline at its end; empty without a file.

    Raises:
        UsageError: the file cannot be read, or has no key.
    """
    if file is None:
        return ""
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file: {error}") from None
    if not key.isascii() or len(key.split()) != 1:
        raise UsageError(f"--api-key-file: {file} must contain one key and nothing else")
    return key


def curl_of(
    endpoint: Endpoint, body: Mapping[str, object], output: Path, key_file: Path | None = None
) -> str:
    """The shell command that requests the same picture; it reads the key from its file."""
    words = ["curl", "--fail-with-body", endpoint.url]
    if urlsplit(endpoint.address).netloc != endpoint.host:
        words += ["--header", f"Host: {endpoint.host}"]
    words += ["--header", "Content-Type: application/json", "--output", str(output)]
    words += ["--data", json.dumps(body, ensure_ascii=False)]
    if key_file is None:
        return shlex.join(words)
    return (
        f'{shlex.join(words)} --header "Authorization: Bearer $(cat {shlex.quote(str(key_file))})"'
    )


def make_picture(
    endpoint: Endpoint,
    body: Mapping[str, object],
    service: Object,
    seconds: float,
    key: str = "",
) -> Picture:
    """Send one request; the cluster holds it while it starts a pod.

    Raises:
        PredictError: the service answered with something else, or not at all.
    """
    target = urlsplit(endpoint.address)
    # The certificate is for the service's name, even if the connection goes elsewhere.
    name = endpoint.host.partition(":")[0]
    tls: dict[str, Any] = {"server_hostname": name, "assert_hostname": name}
    headers = {"Host": endpoint.host, "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    pool = urllib3.PoolManager(retries=False, **(tls if target.scheme == "https" else {}))
    try:
        response = pool.request(
            "POST",
            endpoint.url,
            body=json.dumps(body).encode(),
            headers=headers,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=seconds),
        )
    except urllib3.exceptions.HTTPError as error:
        raise PredictError(_unreachable(endpoint, service, error)) from None
    return _picture(response, endpoint)


def _picture(response: urllib3.BaseHTTPResponse, endpoint: Endpoint) -> Picture:
    content = response.data
    kind = next((name for mark, name in _SIGNATURES.items() if content.startswith(mark)), None)
    if response.status == 200 and kind:
        return Picture(content, kind, response.headers.get("x-seed", ""))
    message = _error_of(content)
    if response.status == 404 and "x-model-name" not in response.headers:
        message += (
            f"\nIf this is not from the predictor, the gateway does not know the host "
            f"{endpoint.host!r}: --address must point to the gateway that KServe uses."
        )
    if response.status in (401, 403):
        message += "\nPass a file with a valid key: --api-key-file"
    raise PredictError(f"{endpoint.url} answered {response.status}: {message}")


def _error_of(content: bytes) -> str:
    text = content[:2000].decode("utf-8", "replace").strip()
    try:
        return str(dig(json.loads(text), "error") or text)
    except (ValueError, RecursionError):
        return text or "an empty body"


def _unreachable(endpoint: Endpoint, service: Object, error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return f"{endpoint.url} did not answer in time; run `logs predictor` to see why"
    lines = [f"{endpoint.url} cannot be reached from here: {error}"]
    if urlsplit(endpoint.address).netloc == endpoint.host:
        forward = {
            "Standard": f"kubectl port-forward service/{name_of(service)}-predictor 8080:80",
        }.get(
            deployment_mode(service),
            "kubectl --namespace istio-system port-forward service/istio-ingressgateway 8080:80 "
            "(with Kourier: --namespace kourier-system service/kourier)",
        )
        lines += [
            "The service is ready. If your DNS does not know its name, go through the gateway:",
            f"  {forward}",
            "and in another terminal run the same command with --address http://127.0.0.1:8080",
        ]
    return "\n".join(lines)
