"""The HTTP responses of the hub."""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import (
    API,
    LARGE_FILE,
    RESOLVE,
    Hub,
    Request,
    git_blob,
    is_large,
    sha256,
)

PAGE = b"<!doctype html><title>Just a moment</title>" + b" " * 200


class Handler(BaseHTTPRequestHandler):
    """One connection; ``running_hub`` binds ``hub``."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent: the record is in ``hub.requests``."""

    def handle(self) -> None:
        """Use small buffers with a pace, so that almost all sent bytes have arrived."""
        if self.hub.faults.pace:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
            super().handle()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(Request(self.command, unquote(path), self.headers))
        if self.hub.faults.status:
            self._send(self.hub.faults.status)
        elif match := API.fullmatch(path):
            self._api(match)
        elif match := RESOLVE.fullmatch(path):
            self._resolve(match)
        elif match := LARGE_FILE.fullmatch(path):
            self._large_file(match["digest"], unquote(match["path"]))
        elif path.startswith("/files/"):
            self._file(unquote(path.removeprefix("/files/")))
        elif path == "/loop":
            self._send(302, headers={"Location": "/loop"})
        elif path.startswith("/moved/"):
            location = f"{self.hub.network_url}/files/{path.removeprefix('/moved/')}"
            self._send(302, headers={"Location": location})
        else:
            self._send(404)

    def _api(self, match: re.Match[str]) -> None:
        fault = self.hub.faults.next(match["call"])
        if fault:
            self._send(fault.status, fault.body, headers=dict(fault.headers))
            return
        commit = self._commit(match["repository"], unquote(match["rev"]))
        if commit is None:
            return
        repository = self.hub.repositories[match["repository"]]
        files = repository.commits[commit]
        if match["call"] == "revision":
            document: object = {"id": match["repository"], "sha": commit}
            if self.hub.mirrors:
                siblings = [_sibling(self.hub.mirrors, *item) for item in files.items()]
                document = {"id": match["repository"], "sha": commit, "siblings": siblings}
        elif self.hub.mirrors:
            self._send(404)
            return
        else:
            document = [_tree_entry(*item) for item in files.items()]
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
            query = self.hub.faults.issue()
            location = f"{self.hub.network_url}/lfs/{sha256(content)}/{path}?{query}"
            headers = {
                "Location": location,
                "X-Repo-Commit": commit,
                "X-Linked-ETag": f'"{sha256(content)}"',
                "X-Linked-Size": str(len(content)),
            }
            self._send(302, headers=headers)
        else:
            self._send_content(path, content, git_blob(content))

    def _large_file(self, digest: str, path: str) -> None:
        if self.hub.faults.is_expired(urlsplit(self.path).query):
            self._send(403)
            return
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                if path in files and sha256(files[path]) == digest:
                    self._send_content(path, files[path], digest)
                    return
        self._send(404)

    def _file(self, name: str) -> None:
        if name in self.hub.files:
            content = self.hub.files[name]
            self._send_content(name, content, sha256(content))
        else:
            self._send(404)

    def _commit(self, name: str, revision: str) -> str | None:
        """The requested commit; None after a refusal was sent."""
        authorization = self.headers.get("Authorization")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.is_private and not self._has_token()):
            # A hub does not reveal to a stranger whether the repository exists.
            self._send(404 if authorization else 401, code="RepoNotFound")
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, code="RevisionNotFound")
            return None
        return commit

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _send_content(self, path: str, content: bytes, etag: str) -> None:
        """The contents or the requested range (RFC 9110: ``Range``, ``If-Range``), or a fault."""
        fault = self.hub.faults.next(path)
        if fault and fault.kind == "status":
            self._send(fault.status, headers=dict(fault.headers))
            return
        if fault and fault.kind == "loop":
            self._send(302, headers={"Location": "/loop"})
            return
        if fault and fault.kind == "page":
            self._send(200, PAGE, headers={"Content-Type": "text/html; charset=utf-8"})
            return
        if path in self.hub.faults.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault and fault.kind == "changed":
            content, etag = bytes(byte ^ 0x55 for byte in content), f"other-{etag}"
        headers = {"ETag": f'"{etag}"'}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        is_honest = fault is None or fault.kind != "changed"
        if is_honest and self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            found = None
        if fault and fault.kind == "wrong_range" and fault.ignores_range:
            headers["Content-Range"] = f"bytes 1-{len(content) - 1}/{len(content)}"
            self._send(206, content[1:], headers=headers, path=path, fault=fault)
            return
        if found is None or (fault and fault.ignores_range):
            self._send(200, content, headers=headers, path=path, fault=fault)
            return
        start, end = int(found[1]), int(found[2] or len(content) - 1)
        if fault and fault.kind == "wrong_range":
            start += 1
        if start >= len(content):
            self._send(416)
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(206, content[start : end + 1], headers=headers, path=path, fault=fault)

    def _send(
        self,
        status: int,
        body: bytes = b"",
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        path: str = "",
        fault: Fault | None = None,
    ) -> None:
        kind = fault.kind if fault else ""
        after = fault.after if fault else 0
        body, headers = _untrue(fault, body, headers or {})
        length = {"short": after, "long": len(body) + after}.get(kind, len(body))
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        if code:
            self.send_header("X-Error-Code", code)
        if status >= 400 and self.hub.reason:
            self.send_header("X-Error-Message", self.hub.reason)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind not in ("reset", "truncate", "short", "stall", "drip"):
            self._send_paced(body, path)
            self.close_connection |= kind == "long"
            return
        self._send_paced(body[:after], path)
        self.close_connection = True
        if kind == "drip":
            for byte in body[after:]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        if kind == "stall":
            self.hub.faults.stalled.set()
            self.connection.recv(1)  # until the client disconnects
        elif kind == "reset":
            # A linger of 0 s makes the kernel send RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def _send_paced(self, body: bytes, path: str) -> None:
        count, pause = self.hub.faults.pace or (max(1, len(body)), 0.0)
        for begin in range(0, len(body), count):
            piece = body[begin : begin + count]
            self.wfile.write(piece)
            self.hub.sent[path] += len(piece)
            if pause:
                time.sleep(pause)


def _untrue(
    fault: Fault | None, body: bytes, headers: Mapping[str, str]
) -> tuple[bytes, Mapping[str, str]]:
    """The body and the headers of a response with a lie."""
    kind, after = (fault.kind, fault.after) if fault else ("none", 0)
    if kind == "flip" and body:
        place = after % len(body)
        body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
    elif kind == "elsewhere":
        body = body[1:] + body[:1]
    elif kind == "gzip":
        body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
    return body, headers


def _tree_entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
    if not is_large(path):
        return entry | {"oid": git_blob(content)}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\n".encode()
    lfs = {"oid": sha256(content), "size": len(content), "pointerSize": len(pointer)}
    return entry | {"oid": git_blob(pointer), "lfs": lfs}


def _sibling(mirrors: str, path: str, content: bytes) -> dict[str, object]:
    if mirrors == "names":
        return {"rfilename": path}
    entry = _tree_entry(path, content)
    found = {"rfilename": path, "size": entry["size"], "blobId": entry["oid"]}
    if "lfs" in entry:
        lfs = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
        found["lfs"] = lfs
    return found
