"""The folders of downloads under way.

Such a folder is called ``<revision>.<owner>`` after the lease's owner. A run that goes on with a
dead one's folder renames it first: were the other only asleep, it finds neither its folder nor a
way to publish it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from downloader.errors import StorageError
from downloader.volume.trash import discard
from modelstore import ModelStore

_LEFT = r"lease\.[0-9a-f]{16}|link|probe|lock|replaced"


def check_writable(store: ModelStore, name: str) -> None:
    """See that files can be made on the volume, by making one.

    Raises:
        OSError: they cannot.
    """
    probe = store.scratch(name, "probe")
    probe.write_bytes(b"\n")
    probe.unlink()


def claim(store: ModelStore, name: str, revision: str, owner: str) -> Path:
    """This owner's folder for ``revision``: a dead run's with all it holds, or a new one."""
    folder = store.staging(name) / f"{revision}.{owner}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    left = [path for path in folder.parent.iterdir() if path.name.startswith(f"{revision}.")]
    if left:
        max(left, key=_bytes).rename(folder)
    else:
        folder.mkdir()
    return folder


def drop_all(store: ModelStore, name: str) -> None:
    """Delete every download of ``name``: for the owner of the lease, once it needs none."""
    folder = store.staging(name)
    if folder.is_dir():
        for path in folder.iterdir():
            discard(store, path)
        folder.rmdir()
    for path in folder.parent.iterdir():
        if _is_left(path.name, name):
            discard(store, path)


def _is_left(file_name: str, name: str) -> bool:
    """What a process leaves that is killed at the lease or at a link, and an older version's."""
    # Whole names: another model's may begin like this one's, as in "sd" and "sd.v2".
    rest = file_name.removeprefix(f".{name}.")
    return rest != file_name and re.fullmatch(_LEFT, rest) is not None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_folder(root: Path) -> None:
    """See that the volume is there.

    Raises:
        StorageError: it is not, it is no folder, or this process may not read it.
    """
    if not root.exists():
        raise StorageError(f"{root}: No such file or directory: is the volume mounted?")
    if not root.is_dir():
        raise StorageError(f"{root}: Not a directory")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise StorageError.from_os(error) from error
