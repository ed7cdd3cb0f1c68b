"""Whether a published folder still matches its marker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from downloader.hashing import sha256_of
from downloader.workers import Stop, run_all
from modelstore import MARKER_NAME, FileEntry, Marker
from modelstore.layout import GENERATION_DEFAULTS_NAME


@dataclass(frozen=True)
class Findings:
    """Damaged files with the reason for each, and files that the marker does not list."""

    damaged: dict[FileEntry, str]
    extra: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        """Whether the folder matches its marker."""
        return not self.damaged and not self.extra

    def __str__(self) -> str:
        reasons = [f"{entry.path} {reason}" for entry, reason in self.damaged.items()]
        return "; ".join([*reasons, *(f"{path} is not listed" for path in self.extra)])


def inspect(
    folder: Path, marker: Marker, *, rehash: bool, max_workers: int, stop: Stop
) -> Findings:
    """Compare the folder with its marker: names, sizes and, with ``rehash``, every byte.

    Raises:
        OSError: a file cannot be read.
    """
    calls = [
        lambda entry=entry: _damage(folder / entry.path, entry, rehash, stop)
        for entry in marker.files
    ]
    reasons = run_all(calls, max_workers, stop)
    damaged = {entry: reason for entry, reason in zip(marker.files, reasons, strict=True) if reason}
    return Findings(damaged, tuple(sorted(_extra(folder, marker))))


def _damage(path: Path, entry: FileEntry, rehash: bool, stop: Stop) -> str:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"has {size:,} bytes, not {entry.size:,}"
    if rehash and sha256_of(path, stop) != entry.sha256:
        return "does not match its published digest"
    return ""


def _extra(folder: Path, marker: Marker) -> Iterator[str]:
    # The operator may add generation defaults; NFS keeps deleted files that are still open.
    expected = {entry.path for entry in marker.files} | {MARKER_NAME, GENERATION_DEFAULTS_NAME}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and name not in expected and not path.name.startswith(".nfs"):
            yield name
