"""The completion marker: the list of a model's files, written last as proof of completeness.

It resembles the RECORD of an installed wheel (PEP 376): the listed files are the complete model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelstore.errors import IncompleteModelError, UnpublishedModelError
from modelstore.layout import MARKER_NAME, MODEL_INDEX_NAME

SCHEMA_VERSION = 2
# Version 1 has no parts and no requested variant.
_READABLE = (1, 2)


@dataclass(frozen=True)
class FileEntry:
    """One published file: POSIX path within the model folder, bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PartEntry:
    """A part other than the pipeline: its folder in the model; other fields as in ``Marker``."""

    folder: str
    source: str
    revision: str
    variant: str | None


@dataclass(frozen=True)
class Marker:
    """What was published, from where and when.

    ``source`` is the requested source (``hf://owner/name@main``), ``revision`` what it resolved
    to (a commit on a hub, a digest of the contents for a folder), ``variant`` the weights' variant
    (``"fp16"``) or None for the plain files, ``completed_at`` UTC in ISO 8601.
    ``asked_variant`` is the requested variant, which distinguishes a repeat from a change.
    ``parts`` are the refiner, the adapters, the ControlNets, the embeddings and the safety
    classifier, if the model has any; their files are among ``files``. ``left_out`` are the
    components that the model index names and that were not published on purpose.
    """

    name: str
    source: str
    revision: str
    variant: str | None
    completed_at: str
    files: tuple[FileEntry, ...]
    asked_variant: str | None = None
    parts: tuple[PartEntry, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The total of all files in bytes."""
        return sum(entry.size for entry in self.files)

    @classmethod
    def read(cls, folder: Path) -> Marker:
        """Read the marker of ``folder``.

        Raises:
            UnpublishedModelError: the folder has a pipeline but no marker.
            IncompleteModelError: there is no folder, no marker, or one of another version.
        """
        if not folder.is_dir():
            raise IncompleteModelError(f"the model folder {folder.name!r} does not exist")
        try:
            document = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if (folder / MODEL_INDEX_NAME).is_file():
                raise UnpublishedModelError(
                    f"{folder} has {MODEL_INDEX_NAME} but no {MARKER_NAME}: "
                    "the downloader did not publish it"
                ) from None
            raise IncompleteModelError(
                f"model folder {folder.name!r} has no {MARKER_NAME}: its download did not finish"
            ) from None
        except (ValueError, RecursionError):
            raise IncompleteModelError(
                f"{MARKER_NAME} of {folder.name!r} is not valid JSON"
            ) from None
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
            left_out = tuple(fields.pop("left_out", ()))
            return cls(**fields, files=files, parts=parts, left_out=left_out)
        except (KeyError, TypeError):
            raise IncompleteModelError(
                f"{MARKER_NAME} of {folder_name!r} does not match its schema version"
            ) from None

    def write(self, folder: Path) -> None:
        """Write the marker into ``folder``; it gets its name once it is on the disk."""
        document = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        if not self.left_out:
            del document["left_out"]  # earlier readers of version 2 refuse unknown fields
        partial = folder / f"{MARKER_NAME}.partial"
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(folder / MARKER_NAME)

    def check_sizes(self, folder: Path) -> None:
        """Check that every listed file exists with its size; fast enough for every start.

        Raises:
            IncompleteModelError: names the first file that is missing or has another size.
        """
        for entry in self.files:
            try:
                size = (folder / entry.path).stat().st_size
            except FileNotFoundError:
                raise IncompleteModelError(
                    f"model folder {folder.name!r} has no {entry.path}"
                ) from None
            if size != entry.size:
                raise IncompleteModelError(
                    f"model folder {folder.name!r}: {entry.path} has {size} bytes, not {entry.size}"
                )
