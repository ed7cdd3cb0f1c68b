"""The volume from the point of view of a test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from downloader.download import Report, download_model
from downloader.settings import Fetch
from downloader.sources.access import Access
from downloader.spec import read_models


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write each file below ``folder``."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def download(source: Path | str, target: Path, **settings: object) -> Report:
    """Publish ``source`` as ``sd``, in this process."""
    uri = source.as_uri() if isinstance(source, Path) else source
    given = Fetch(**{"source": uri, "name": "sd", "target": target, **settings})
    with Access(given) as access:
        return download_model(read_models(given)[0], given, access)


def file_names(folder: Path) -> set[str]:
    """The files below ``folder``, which may be a link to one."""
    folder = folder.resolve()
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def leftovers(target: Path) -> set[str]:
    """The contents of the staging and trash folders."""
    folders = [target / ".staging", target / ".trash"]
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}


def revisions(target: Path, name: str = "sd") -> set[str]:
    """The revisions of a model."""
    folder = target / ".revisions" / name
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def tree(folder: Path) -> dict[str, int]:
    """Every path below ``folder`` and its modification time in nanoseconds."""
    return {str(path): path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def partial_sizes(target: Path) -> list[int]:
    """Bytes of the partial files, without empty ones.

    A download may be running: its folders and files come and go. ``os.walk`` skips a folder that
    is gone, ``Path.glob`` raises.
    """
    sizes = []
    for folder, _, names in os.walk(target / ".staging"):
        for name in names:
            if name.endswith(".partial"):
                with suppress(FileNotFoundError):  # it is complete by now
                    sizes.append((Path(folder) / name).stat().st_size)
    return sorted(filter(None, sizes))
