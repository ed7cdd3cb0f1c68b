"""A published model folder, read once and passed to all code that loads from it."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from modelstore import IncompleteModelError, Marker, UnpublishedModelError
from modelstore.layout import (
    ADAPTERS_FOLDER_NAME,
    EMBEDDINGS_FOLDER_NAME,
    adapter_weights,
)
from predictor.checkpoint.configs import Configs
from predictor.checkpoint.families import Family, family_of
from predictor.errors import ModelLoadError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The folder, its marker, its configurations and its family; no weights.

    ``folder`` is the revision's own folder, not the link to it: a load must not mix revisions.
    """

    folder: Path
    marker: Marker

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the marker and check that every file it lists is there with its size.

        Raises:
            ModelLoadError: the folder cannot be read, is not published or incomplete; the message
                says what to do.
        """
        try:
            marker = Marker.read(folder)
            marker.check_sizes(folder)
        except UnpublishedModelError as error:
            raise ModelLoadError(
                f"{error}; publish it in place with `python -m downloader adopt "
                f"--name {folder.name} --target {folder.parent}`"
            ) from None
        except IncompleteModelError as error:
            raise ModelLoadError(
                f"{error}; let the downloader finish (`kubectl get jobs`), or publish a folder "
                "with `python -m downloader --source hf://owner/name --name NAME --target VOLUME` "
                "and serve VOLUME/NAME"
            ) from None
        except OSError as error:
            raise ModelLoadError(
                f"model folder {folder.name!r} cannot be read: {error.strerror}"
            ) from None
        return cls(folder, marker)

    @cached_property
    def configs(self) -> Configs:
        """The JSON files of the pipeline and its components."""
        return Configs(self.folder)

    @cached_property
    def family(self) -> Family:
        """The family that the configurations match.

        Raises:
            ModelLoadError: one of them is not valid JSON.
        """
        return family_of(self.configs)

    @property
    def adapters(self) -> dict[str, Path]:
        """The LoRA files; see ``find_adapters``."""
        return find_adapters(self.folder)

    @property
    def embeddings(self) -> dict[str, Path]:
        """The textual inversion embeddings; see ``find_embeddings``."""
        return find_embeddings(self.folder)

    def has(self, part: str) -> bool:
        """Whether there is a folder ``part``, such as ``refiner``."""
        return (self.folder / part).is_dir()

    def is_published(self, part: str) -> bool:
        """Whether the marker lists ``part``, such as ``refiner``, with a source of its own."""
        return any(entry.folder == part for entry in self.marker.parts)

    def variant_of(self, part: str) -> str | None:
        """The variant of the weights in the folder ``part``, or None for plain files.

        A part that was published from a source of its own has an entry in the marker. Any other
        folder is a component of the pipeline, which may lack the variant of the rest: the marker's
        list of files decides.
        """
        for entry in self.marker.parts:
            if entry.folder == part:
                return entry.variant
        names = [PurePosixPath(file.path) for file in self.marker.files]
        words = {word for path in names if part in map(str, path.parents) for word in _words(path)}
        return self.marker.variant if self.marker.variant in words else None


def find_adapters(folder: Path) -> dict[str, Path]:
    """The adapters of a published folder: name to file, in the order of the names.

    Each is a folder in ``adapters/`` from which ``adapter_weights`` chooses one file. Other files
    are ignored. A folder without such a file is ignored, with a warning in the log.
    """
    parent = folder / ADAPTERS_FOLDER_NAME
    found: dict[str, Path] = {}
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        weights = adapter_weights(file.name for file in path.glob("*"))
        if len(weights) == 1:
            found[path.name] = path / weights[0]
        else:
            logger.warning(
                "adapter %r is ignored: it has %d safetensors files and must have one",
                path.name,
                len(weights),
            )
    return found


def find_embeddings(folder: Path) -> dict[str, Path]:
    """The embeddings of a published folder: name to file, in the order of the names.

    Each is a safetensors file in ``embeddings/``. Others are ignored, with a warning in the log.
    """
    parent = folder / EMBEDDINGS_FOLDER_NAME
    found: dict[str, Path] = {}
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        if path.suffix == ".safetensors":
            found[path.stem] = path
        else:
            logger.warning("embedding %r is ignored: it is not a safetensors file", path.name)
    return found


def _words(path: PurePosixPath) -> list[str]:
    """``model.fp16-00001-of-00002.safetensors`` is ``model``, ``fp16``, and so on."""
    return re.split(r"[.-]", path.name)
