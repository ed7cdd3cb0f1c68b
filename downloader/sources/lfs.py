"""Git LFS pointers, which a checkout without Git LFS contains in place of large files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from downloader.errors import UnsuitableModelError

LFS_REASON = (
    "is a Git LFS pointer, not the file itself: run `git lfs pull` in the checkout that the source "
    "was copied from, and copy it again"
)

# The first line of a pointer, and the limit of its size (docs/spec.md of git-lfs).
_FIRST_LINE = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER_BYTES = 1024


def is_lfs_pointer(content: bytes) -> bool:
    """Whether these are the contents, or the start of the contents, of a pointer."""
    return content.startswith(_FIRST_LINE)


def check_no_pointers(folder: Path, paths: Iterable[str]) -> None:
    """Check that no file is a pointer.

    Raises:
        UnsuitableModelError: names the file.
    """
    for path in sorted(paths):
        place = folder / path
        if place.stat().st_size < _LARGEST_POINTER_BYTES and is_lfs_pointer(place.read_bytes()):
            raise UnsuitableModelError(f"{path} {LFS_REASON}")
