"""One model to publish: the parts that go into its folder, each from a source of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from downloader.spec.uri import FileSpec, SourceSpec


class PartKind(Enum):
    """What the files of a part are, and so how they are chosen."""

    PIPELINE = "pipeline"
    SINGLE_FILE = "single file"
    ADAPTER = "adapter"
    CONTROLNET = "ControlNet"
    CLASSIFIER = "safety classifier"


@dataclass(frozen=True)
class PartSpec:
    """A source and the folder within the model that it fills; the pipeline's own is ``""``."""

    folder: str
    kind: PartKind
    source: SourceSpec
    variant: str | None = None
    allow_patterns: tuple[str, ...] = ()
    deny_patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """A name and its parts, the pipeline first."""

    name: str
    parts: tuple[PartSpec, ...]

    @property
    def main(self) -> PartSpec:
        """The pipeline, or the single file in its place."""
        return self.parts[0]


def main_part(
    source: SourceSpec,
    variant: str | None,
    allow_patterns: tuple[str, ...] = (),
    deny_patterns: tuple[str, ...] = (),
) -> PartSpec:
    """The part at the model's root."""
    kind = PartKind.SINGLE_FILE if isinstance(source, FileSpec) else PartKind.PIPELINE
    return PartSpec("", kind, source, variant, allow_patterns, deny_patterns)
