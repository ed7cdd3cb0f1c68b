"""What a download will fetch: each part resolved and listed, its files chosen; no weights yet."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from downloader.errors import DownloadError, UnsuitableModelError
from downloader.fetch.small import read_small
from downloader.selection.listing import check_names, filtered
from downloader.selection.parts import select_adapter, select_network
from downloader.selection.pipeline import Selection, check_is_pipeline, read_components, select
from downloader.sources import Access, RemoteFile, Source, open_source
from downloader.sources.retry import Retries, with_retries
from downloader.spec import ModelSpec, PartKind, PartSpec
from downloader.workers import Stop
from modelstore.layout import MODEL_INDEX_NAME


@dataclass(frozen=True)
class ResolvedPart:
    """A part and what its source stands at: a commit, or a digest of the contents."""

    spec: PartSpec
    source: Source
    revision: str

    @property
    def identity(self) -> Sequence[object]:
        """All that decides which bytes are published, and not how it was asked for."""
        spec = self.spec
        patterns = (spec.allow_patterns, spec.deny_patterns)
        return (spec.folder, spec.source.place, self.revision, spec.variant, *patterns)


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose parts are resolved; ``revision`` is the name of its folder on the volume."""

    name: str
    parts: tuple[ResolvedPart, ...]

    @property
    def revision(self) -> str:
        """Equal for equal contents: the start of the commit, and of a digest of everything."""
        commit = re.sub(r"^sha256:", "", self.parts[0].revision)[:12]
        identity = json.dumps([part.identity for part in self.parts]).encode()
        return f"{commit}-{hashlib.sha256(identity).hexdigest()[:8]}"


@dataclass(frozen=True)
class PlannedFile:
    """A file of a part's source and its path within the model."""

    part: ResolvedPart
    remote: RemoteFile
    path: str


@dataclass(frozen=True)
class Plan:
    """All files of a model, and the variant of each part's weights, by the part's folder.

    ``without_variant`` are the components that have only plain files.
    """

    model: ResolvedModel
    files: tuple[PlannedFile, ...]
    variants: dict[str, str | None]
    without_variant: tuple[str, ...]

    @property
    def variant_told(self) -> str:
        """The variant and who lacks it, for people."""
        lacking = f", plain files of {', '.join(self.without_variant)}"
        return f"variant {self.variants[''] or 'none'}{lacking if self.without_variant else ''}"

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.remote.size for file in self.files)


def resolve_model(spec: ModelSpec, access: Access, stop: Stop) -> ResolvedModel:
    """Ask each source what it stands at.

    Raises:
        SourceError: one of them fails.
    """
    return ResolvedModel(spec.name, tuple(_resolve(part, access, stop) for part in spec.parts))


def make_plan(model: ResolvedModel, access: Access, stop: Stop) -> Plan:
    """List the sources and choose the files.

    Raises:
        UnsuitableModelError: the model cannot be served.
        SourceError: a source fails.
    """
    files: list[PlannedFile] = []
    variants: dict[str, str | None] = {}
    without: list[str] = []
    for part in model.parts:
        selection = _select(part, access, stop)
        variants[part.spec.folder] = selection.variant
        without += [f"{part.spec.folder}/{name}".strip("/") for name in selection.without_variant]
        files += [
            PlannedFile(part, file, path_in_model(part.spec, file)) for file in selection.files
        ]
    paths = [file.path for file in files]
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        raise UnsuitableModelError(f"two parts of the model have a file {min(twice)!r}")
    return Plan(model, tuple(files), variants, tuple(without))


def list_part(part: ResolvedPart, access: Access, stop: Stop) -> tuple[RemoteFile, ...]:
    """Every file of the part's source, their names checked.

    Raises:
        SourceError: the source fails, or a name is not safe.
    """
    retries = Retries(access.settings.max_retries, stop)
    files = with_retries(lambda: part.source.list_files(part.revision), retries)
    check_names(files)
    return files


def _resolve(part: PartSpec, access: Access, stop: Stop) -> ResolvedPart:
    source = open_source(part.source, access)
    retries = Retries(access.settings.max_retries, stop)
    return ResolvedPart(part, source, with_retries(source.resolve, retries))


def _select(part: ResolvedPart, access: Access, stop: Stop) -> Selection:
    spec = part.spec
    listed = list_part(part, access, stop)
    files = filtered(listed, spec.allow_patterns, spec.deny_patterns)
    try:
        if spec.kind is PartKind.SINGLE_FILE:
            return Selection(files, None)
        if spec.kind is PartKind.ADAPTER:
            return select_adapter(files)
        if spec.kind in (PartKind.CONTROLNET, PartKind.CLASSIFIER):
            return select_network(spec.kind.value, files, spec.variant)
        check_is_pipeline(files)
        (index,) = [file for file in files if file.path == MODEL_INDEX_NAME]
        retries = Retries(access.settings.max_retries, stop)
        content = read_small(part.source, part.revision, index, retries)
        return select(files, read_components(content), spec.variant)
    except UnsuitableModelError as error:
        raise _explained(error, part, len(listed) - len(files)) from None


def _explained(error: DownloadError, part: ResolvedPart, left_out: int) -> UnsuitableModelError:
    patterns = f" (the patterns left {left_out} files out)" if left_out else ""
    return UnsuitableModelError(f"{part.source.uri}: {error}{patterns}")


def path_in_model(spec: PartSpec, file: RemoteFile) -> str:
    """Where a file of a part lies within the model."""
    # An adapter's folder holds its files, wherever in a repository they were.
    path = file.path.rpartition("/")[2] if spec.kind is PartKind.ADAPTER else file.path
    return f"{spec.folder}/{path}" if spec.folder else path
