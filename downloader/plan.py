"""What a download will fetch, and whether the target volume can hold it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import NoSpaceError
from downloader.selection import check_listing, read_components, select
from downloader.sources import RemoteFile, Source
from modelstore.layout import MODEL_INDEX_NAME


@dataclass(frozen=True)
class Plan:
    """The files of ``revision`` that will be published, and the weights' variant among them."""

    revision: str
    variant: str | None
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files' paths."""
        return tuple(file.path for file in self.files)


def make_plan(source: Source, revision: str, variant: str | None, staging: Path) -> Plan:
    """Choose the files; fetches ``model_index.json`` into ``staging``, as nothing else names them.

    Raises:
        UnsuitableModelError: the model cannot be served.
        SourceError: the source fails.
    """
    files = source.list_files(revision)
    check_listing(files)
    source.fetch(revision, [MODEL_INDEX_NAME], staging)
    components = read_components((staging / MODEL_INDEX_NAME).read_bytes())
    selection = select(files, components, variant)
    return Plan(revision, selection.variant, selection.files)


def check_space(plan: Plan, staging: Path) -> None:
    """See that the volume of ``staging`` can hold what of ``plan`` is not there yet.

    The model published before stays until the new one is whole, so its bytes do not count as free.

    Raises:
        NoSpaceError: tells needed and free bytes.
    """
    needed = sum(file.size for file in plan.files if not _is_there(staging / file.path, file.size))
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise NoSpaceError(f"the target needs {needed:,} bytes more and has {free:,} bytes free")


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
