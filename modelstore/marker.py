"""The completion marker: the list of a model's files, written last, so that it is the proof.

The form is the one of an installed wheel's RECORD (PEP 376): what is listed is what is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelstore.errors import IncompleteModelError
from modelstore.layout import MARKER_NAME

SCHEMA_VERSION = 2
# Version 1 knew no parts and no patterns.
_READABLE = (1, 2)


@dataclass(frozen=True)
class FileEntry:
    """One published file: POSIX path within the model folder, bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PartEntry:
    """What was published beside the pipeline: its folder within, and as in ``Marker`` the rest."""

    folder: str
    source: str
    revision: str
    variant: str | None


@dataclass(frozen=True)
class Marker:
    """What was published, from where and when.

    ``source`` is the source as asked for (``hf://owner/name@main``), ``revision`` what it resolved
    to (a commit on a hub, a digest of the contents for a folder), ``variant`` the weights' variant
    (``"fp16"``) or None for the plain files, ``completed_at`` UTC in ISO 8601.
    ``asked_variant`` is what the downloader was asked to prefer: it tells a repeat from a change.
    ``parts`` are the refiner, the adapters, the ControlNets and the safety classifier, as far as
    there are any; their files are among ``files``.
    """

    name: str
    source: str
    revision: str
    variant: str | None
    completed_at: str
    files: tuple[FileEntry, ...]
    asked_variant: str | None = None
    parts: tuple[PartEntry, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    @classmethod
    def read(cls, folder: Path) -> Marker:
        """Read the marker of ``folder``.

        Raises:
            IncompleteModelError: there is no folder, no marker, or one of another version.
        """
        if not folder.is_dir():
            raise IncompleteModelError(f"there is no model folder {folder.name!r}")
        try:
            document = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise IncompleteModelError(
                f"model folder {folder.name!r} has no {MARKER_NAME}: its download did not finish"
            ) from None
        except ValueError:
            raise IncompleteModelError(f"{MARKER_NAME} of {folder.name!r} is no JSON") from None
        return cls._from_document(document, folder.name)

    @classmethod
    def _from_document(cls, document: Any, folder_name: str) -> Marker:
        if not isinstance(document, Mapping) or document.get("schema_version") not in _READABLE:
            raise IncompleteModelError(
                f"{MARKER_NAME} of {folder_name!r} is not of schema version 1 to {SCHEMA_VERSION}"
            )
        fields = {key: value for key, value in document.items() if key != "schema_version"}
        try:
            files = tuple(FileEntry(**entry) for entry in fields.pop("files"))
            parts = tuple(PartEntry(**entry) for entry in fields.pop("parts", ()))
            return cls(**fields, files=files, parts=parts)
        except (KeyError, TypeError):
            raise IncompleteModelError(
                f"{MARKER_NAME} of {folder_name!r} has not the fields of its schema version"
            ) from None

    def write(self, folder: Path) -> None:
        """Write the marker into ``folder``: whole on disk before it has its name."""
        document = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        partial = folder / f"{MARKER_NAME}.partial"
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(folder / MARKER_NAME)

    def check_sizes(self, folder: Path) -> None:
        """See that every listed file is there with its size; quick enough for every start.

        Raises:
            IncompleteModelError: names the first file that is missing or of another size.
        """
        for entry in self.files:
            try:
                size = (folder / entry.path).stat().st_size
            except FileNotFoundError:
                raise IncompleteModelError(
                    f"model folder {folder.name!r} lacks {entry.path}"
                ) from None
            if size != entry.size:
                raise IncompleteModelError(
                    f"model folder {folder.name!r}: {entry.path} has {size} bytes, not {entry.size}"
                )
