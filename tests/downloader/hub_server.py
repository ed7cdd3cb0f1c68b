"""A hub on this machine: speaks as much of the Hugging Face hub's HTTP API as a download needs.

Large files (safetensors and pickles) are redirected to a second address, as a hub sends its readers
to a content delivery network. Every request is recorded, and faults can be switched on.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = {".safetensors", ".bin", ".ckpt", ".onnx", ".msgpack"}

_API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/(?P<call>revision|tree)/(?P<rev>[^/]+)")
_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")


@dataclass
class Repository:
    """Commits by id, each the contents by path; branches by name."""

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
    """What one request asked for."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """The repositories, the faults and the record; ``url`` is what HF_ENDPOINT is set to."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_good"
    corrupt: set[str] = field(default_factory=set)
    cut_once: set[str] = field(default_factory=set)
    stall: set[str] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)
    failing_status: int | None = None
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    network_url: str = ""

    def repository(self, name: str) -> Repository:
        """The repository of that name, made on first use."""
        return self.repositories.setdefault(name, Repository())

    @property
    def fetched(self) -> list[str]:
        """The paths whose contents were asked for, in order."""
        gets = (request.path for request in self.requests if request.method == "GET")
        contents = (
            _RESOLVE.fullmatch(path) or re.fullmatch(r"/lfs/\w+/(?P<path>.+)", path)
            for path in gets
        )
        return [match["path"] for match in contents if match]

    @property
    def api_calls(self) -> list[str]:
        """The API calls, as ``revision`` or ``tree``, in order."""
        matches = (_API.fullmatch(request.path) for request in self.requests)
        return [match["call"] for match in matches if match]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
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


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent: the record is in ``hub.requests``."""

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
            super().handle()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(Request(self.command, unquote(path), dict(self.headers)))
        if self.hub.failing_status:
            self._send(self.hub.failing_status)
        elif match := _API.fullmatch(path):
            self._api(match)
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match)
        elif match := re.fullmatch(r"/lfs/(?P<digest>\w+)/(?P<path>.+)", path):
            self._large_file(match["digest"], unquote(match["path"]))
        else:
            self._send(404)

    def _api(self, match: re.Match[str]) -> None:
        commit = self._commit(match["repository"], unquote(match["rev"]))
        if commit is None:
            return
        repository = self.hub.repositories[match["repository"]]
        if match["call"] == "revision":
            document: object = {"id": match["repository"], "sha": commit}
        else:
            document = [_tree_entry(*item) for item in repository.commits[commit].items()]
        self._send(200, json.dumps(document).encode())

    def _resolve(self, match: re.Match[str]) -> None:
        commit = self._commit(match["repository"], unquote(match["rev"]))
        if commit is None:
            return
        repository = self.hub.repositories[match["repository"]]
        if repository.is_gated and not self._has_token():
            self._send(403, code="GatedRepo")
            return
        path = unquote(match["path"])
        content = repository.commits[commit].get(path)
        if content is None:
            self._send(404, code="EntryNotFound")
        elif is_large(path):
            self._redirect(commit, path, content)
        else:
            etag = {"ETag": f'"{git_blob(content)}"', "X-Repo-Commit": commit}
            self._send_content(path, content, etag)

    def _redirect(self, commit: str, path: str, content: bytes) -> None:
        self._send(
            302,
            headers={
                "Location": f"{self.hub.network_url}/lfs/{sha256(content)}/{path}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256(content)}"',
                "X-Linked-Size": str(len(content)),
            },
        )

    def _large_file(self, digest: str, path: str) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                if path in files and sha256(files[path]) == digest:
                    self._send_content(path, files[path], {"ETag": f'"{digest}"'})
                    return
        self._send(404)

    def _commit(self, name: str, revision: str) -> str | None:
        """The commit asked for; None once the refusal is sent."""
        authorization = self.headers.get("Authorization")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.is_private and not self._has_token()):
            # A hub does not tell a stranger which of the two it is.
            self._send(404 if authorization else 401, code="RepoNotFound")
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, code="RevisionNotFound")
            return None
        return commit

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _send_content(self, path: str, content: bytes, headers: Mapping[str, str]) -> None:
        if path in self.hub.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            headers = {
                **headers,
                "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}",
            }
        self._send(206 if start else 200, content[start:], headers=headers, path=path)

    def _send(
        self,
        status: int,
        body: bytes = b"",
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        path: str = "",
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        if path in self.hub.cut_once:
            self.hub.cut_once.remove(path)
            self.wfile.write(body[:half])
            self.close_connection = True
        elif path in self.hub.stall:
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.hub.stalled.set()
            self.connection.recv(1)  # until the client goes
        else:
            self.wfile.write(body)


def _tree_entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
    if not is_large(path):
        return entry | {"oid": git_blob(content)}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\n".encode()
    lfs = {"oid": sha256(content), "size": len(content), "pointerSize": len(pointer)}
    return entry | {"oid": git_blob(pointer), "lfs": lfs}
