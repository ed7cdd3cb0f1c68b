"""The files of the page, read from the package once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath

START = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file; ``etag`` changes with its content (RFC 9110, section 8.8.3)."""

    content: bytes
    media_type: str
    etag: str


def read_page_files() -> Mapping[str, PageFile]:
    """Each file of the page by its name."""
    folder = resources.files("predictor.ui") / "static"
    return {file.name: _page_file(file.name, file.read_bytes()) for file in folder.iterdir()}


def _page_file(name: str, content: bytes) -> PageFile:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return PageFile(content, _MEDIA_TYPES[PurePath(name).suffix], etag)
