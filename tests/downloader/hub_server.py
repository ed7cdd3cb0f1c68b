"""A local hub that implements the part of the Hugging Face hub's HTTP API that a download needs.

Large files (safetensors and pickles) are redirected to a second address, as a hub sends its readers
to a content delivery network. Every request and every byte sent is recorded, and faults can be
switched on (``hub_faults``); ``hub_handler`` answers.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Literal

from tests.downloader.hub_faults import Faults

LARGE_SUFFIXES = {".safetensors", ".bin", ".ckpt", ".onnx", ".msgpack"}

API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/(?P<call>revision|tree)/(?P<rev>[^/]+)")
RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
LARGE_FILE = re.compile(r"/lfs/(?P<digest>\w+)/(?P<path>.+)")


@dataclass
class Repository:
    """Commits by id, each with contents by path; branches by name."""

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit and move the branch to it; returns its id."""
        listing = sorted((path, sha256(content)) for path, content in files.items())
        commit = hashlib.sha1(repr(listing).encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit


@dataclass
class Request:
    """One recorded request; the lookup of headers ignores case."""

    method: str
    path: str
    headers: Message


@dataclass
class Hub:
    """The repositories, the faults and the recorded requests; ``url`` is the value of HF_ENDPOINT.

    ``files`` are single files under ``/files/<name>``, as on any web server. With ``mirrors`` the
    hub has no ``tree``, and ``revision`` lists the ``names`` of the files, or also their sizes and
    digests (``blobs``). ``reason`` is the explanation in every refusal.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    token: str = "hf_good"
    mirrors: Literal["", "names", "blobs"] = ""
    reason: str = ""
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    url: str = ""
    network_url: str = ""

    def repository(self, name: str) -> Repository:
        """The repository of that name, created on first use."""
        return self.repositories.setdefault(name, Repository())

    @property
    def fetched(self) -> list[str]:
        """The paths whose contents were requested, in order."""
        gets = (request.path for request in self.requests if request.method == "GET")
        contents = (RESOLVE.fullmatch(path) or LARGE_FILE.fullmatch(path) for path in gets)
        return [match["path"] for match in contents if match]

    @property
    def fetched_weights(self) -> list[str]:
        """The safetensors whose bytes were requested, in order, without redirects."""
        matches = (LARGE_FILE.fullmatch(request.path) for request in self.requests)
        return [match["path"] for match in matches if match]

    @property
    def api_calls(self) -> list[str]:
        """The API calls, as ``revision`` or ``tree``, in order."""
        matches = (API.fullmatch(request.path) for request in self.requests)
        return [match["call"] for match in matches if match]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    from tests.downloader.hub_handler import Handler

    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.network_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        for server in servers
    ]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    """The id that git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    """Whether git would hold a pointer in place of the file."""
    return PurePosixPath(path).suffix in LARGE_SUFFIXES
