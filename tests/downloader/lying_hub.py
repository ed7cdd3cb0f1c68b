"""A hub that lies at random, from a seed: each response with contents may have a fault.

The draws depend on the path and on the number of its response, not on the order of the threads.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelstore import MARKER_NAME, Marker
from tests.downloader.hub_faults import Fault, Faults, Kind
from tests.downloader.hub_server import is_large, sha256
from tests.downloader.pipeline_files import pipeline_files

# Faults after which the bytes so far are good, and the next request continues.
BREAKS: tuple[Kind, ...] = ("reset", "truncate", "stall", "drip")
LIES: tuple[Kind, ...] = ("flip", "elsewhere", "changed", "short", "long", "gzip", "page", "loop")
_STATUSES = (408, 429, 500, 502, 503, 404)
_API_FAULTS = (
    Fault("status", status=503),
    Fault("status", status=502),
    Fault("status", status=200, body=b"<!doctype html>"),
    Fault("status", status=200, body=json.dumps({"sha": 5}).encode()),
)


@dataclass
class Lies(Faults):
    """Gives a share of the responses a fault, up to ``limit`` for each path.

    ``given`` counts the faults by kind.
    """

    seed: int = 0
    share: float = 0.0
    limit: int = 4
    given: Counter[str] = field(default_factory=Counter)
    _responses: Counter[str] = field(default_factory=Counter)
    _faults: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, path: str) -> Fault | None:
        """The fault of the current response."""
        with self._lock:
            number = self._responses[path] = self._responses[path] + 1
            draw = random.Random(f"{self.seed}/{path}/{number}")
            # A lie about the listing ends most runs, so there are few.
            share = self.share / 6 if path in ("revision", "tree") else self.share
            if self._faults[path] >= self.limit or draw.random() >= share:
                return super().next(path)
            self._faults[path] += 1
            fault = _drawn(draw, path)
            self.given[f"{fault.kind} {fault.status or ''}".rstrip()] += 1
            return fault


def _drawn(draw: random.Random, path: str) -> Fault:
    if path in ("revision", "tree"):
        # The library itself pauses for seconds after a 5xx of ``tree``.
        return draw.choice(_API_FAULTS[2:] if path == "tree" else _API_FAULTS)
    kind = draw.choice((*BREAKS, *LIES, "status", "wrong_range", "none"))
    if kind == "none":
        return Fault("none", ignores_range=True)
    if kind != "status":
        return Fault(kind, after=draw.choice((0, 1, 10, 1000, 100_000)))
    status = draw.choice((*_STATUSES, 403) if is_large(path) else _STATUSES)
    headers = (("Retry-After", "0"),) if status in (429, 503) else ()
    if status == 404:
        headers = (("X-Error-Code", "EntryNotFound"),)
    return Fault("status", status=status, headers=headers)


def true_files(seed: int, elements: int) -> dict[str, bytes]:
    """The pipeline's files, with weights of random bytes: a range differs from every other one."""
    draw = random.Random(seed)
    files = pipeline_files()
    weights = {path: _weights(draw.randbytes(elements)) for path in files if is_large(path)}
    vocabulary = json.dumps({str(number): number for number in range(2000)}).encode()
    return files | weights | {"tokenizer/vocab.json": vocabulary}


def _weights(content: bytes) -> bytes:
    size = len(content)
    header = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def differences(folder: Path, truth: Mapping[str, bytes]) -> list[str]:
    """How a published folder differs from the truth, by names and SHA-256."""
    if not (folder / MARKER_NAME).is_file():
        return ["no marker"]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wrong = [f"only in one: {path}" for path in found ^ {*truth, MARKER_NAME}]
    wrong += [
        f"other contents: {path}"
        for path in found & set(truth)
        if sha256((folder / path).read_bytes()) != sha256(truth[path])
    ]
    listed = {entry.path: entry.sha256 for entry in Marker.read(folder).files}
    if listed != {path: sha256(content) for path, content in truth.items()}:
        wrong.append("the marker lists other files or digests")
    return wrong
