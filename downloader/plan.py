"""What a download will fetch: resolves and lists each part and selects its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from downloader.errors import (
    CorruptFileError,
    DownloadError,
    TransientError,
    UnsuitableModelError,
)
from downloader.hashing import Hashes
from downloader.selection.parts import (
    check_names,
    filtered,
    select_adapter,
    select_embedding,
    select_network,
)
from downloader.selection.pipeline import Selection, check_is_pipeline, read_components, select
from downloader.sources import RemoteFile, Source, open_source
from downloader.sources.access import Access
from downloader.sources.retry import Retries, with_correct_contents, with_retries
from downloader.sources.subfolder import SubfolderSource
from downloader.spec import ModelSpec, PartKind, PartSpec
from downloader.workers import Stop
from modelstore.layout import MODEL_INDEX_NAME

_LARGEST_INDEX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ResolvedPart:
    """A part and the revision of its source: a commit, or a digest of the contents."""

    spec: PartSpec
    source: Source
    revision: str

    @property
    def identity(self) -> Sequence[object]:
        """Everything that decides which bytes are published."""
        spec = self.spec
        patterns = (spec.allow_patterns, spec.deny_patterns)
        # Absent if empty: the names of published revisions stay the same.
        newer = [each for each in (spec.skip_components, spec.subfolder) if each]
        return (spec.folder, spec.source.place, self.revision, spec.variant, *patterns, *newer)


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose parts are resolved; ``revision`` is the name of its folder on the volume."""

    name: str
    parts: tuple[ResolvedPart, ...]

    @property
    def revision(self) -> str:
        """Equal for equal contents: the start of the commit and of a digest of all parts."""
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
    """All files of a model, and the variant of each part's weights by the folder of the part.

    ``without_variant`` are the components that have only plain files, ``missing`` the optional ones
    that the source does not have as safetensors.
    """

    model: ResolvedModel
    files: tuple[PlannedFile, ...]
    variants: dict[str, str | None]
    without_variant: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def left_out(self) -> tuple[str, ...]:
        """The components that are not fetched, on request or because the source lacks them."""
        return tuple(sorted({*self.model.parts[0].spec.skip_components, *self.missing}))

    @property
    def variant_summary(self) -> str:
        """The variant, the components that lack it, and those left out, for people."""
        lacking = f", plain files of {', '.join(self.without_variant)}"
        without = f", without {', '.join(self.left_out)}"
        return (
            f"variant {self.variants[''] or 'none'}{lacking if self.without_variant else ''}"
            f"{without if self.left_out else ''}"
        )

    @property
    def size(self) -> int:
        """The total of all files in bytes."""
        return sum(file.remote.size for file in self.files)


def resolve_model(spec: ModelSpec, access: Access, stop: Stop) -> ResolvedModel:
    """Resolve each part to the current revision of its source.

    Raises:
        SourceError: a source fails.
    """
    return ResolvedModel(spec.name, tuple(_resolve(part, access, stop) for part in spec.parts))


def make_plan(model: ResolvedModel, access: Access, stop: Stop) -> Plan:
    """List the sources and select the files.

    Raises:
        UnsuitableModelError: the model cannot be served.
        SourceError: a source fails.
    """
    files: list[PlannedFile] = []
    variants: dict[str, str | None] = {}
    without: list[str] = []
    missing: list[str] = []
    for part in model.parts:
        selection = _select(part, access, stop)
        variants[part.spec.folder] = selection.variant
        without += [f"{part.spec.folder}/{name}".strip("/") for name in selection.without_variant]
        missing += [f"{part.spec.folder}/{name}".strip("/") for name in selection.missing]
        files += [
            PlannedFile(part, file, path_in_model(part.spec, file)) for file in selection.files
        ]
    paths = [file.path for file in files]
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        raise UnsuitableModelError(f"two parts of the model contain the file {min(twice)!r}")
    return Plan(model, tuple(files), variants, tuple(without), tuple(missing))


def list_part(part: ResolvedPart, access: Access, stop: Stop) -> tuple[RemoteFile, ...]:
    """Every file of the part's source, with checked names.

    Raises:
        SourceError: the source fails, or a name is not safe.
    """
    files = with_retries(lambda: part.source.list_files(part.revision), access.retries(stop))
    check_names(files)
    return files


def _resolve(part: PartSpec, access: Access, stop: Stop) -> ResolvedPart:
    source: Source = open_source(part.source, access)
    if part.subfolder:
        source = SubfolderSource(source, part.subfolder)
    return ResolvedPart(part, source, with_retries(source.resolve, access.retries(stop)))


def _select(part: ResolvedPart, access: Access, stop: Stop) -> Selection:
    spec = part.spec
    listed = list_part(part, access, stop)
    files = filtered(listed, spec.allow_patterns, spec.deny_patterns)
    try:
        if spec.kind is PartKind.SINGLE_FILE:
            return Selection(files, None)
        if spec.kind is PartKind.ADAPTER:
            return select_adapter(files)
        if spec.kind is PartKind.EMBEDDING:
            return select_embedding(files)
        if spec.kind in (PartKind.CONTROLNET, PartKind.CLASSIFIER):
            return select_network(spec.kind.value, files, spec.variant)
        check_is_pipeline(files)
        (index,) = [file for file in files if file.path == MODEL_INDEX_NAME]
        content = _read_index(part, index, access.retries(stop))
        components = [
            component
            for component in read_components(content)
            if component.name not in spec.skip_components
        ]
        return select(files, components, spec.variant)
    except UnsuitableModelError as error:
        raise _explained(error, part, len(listed) - len(files)) from None


def _read_index(part: ResolvedPart, file: RemoteFile, retries: Retries) -> bytes:
    """The contents of the model index, verified by its digest."""
    if file.size > _LARGEST_INDEX_BYTES:
        raise UnsuitableModelError(f"{file.path} is too large for an index: {file.size:,} bytes")
    return with_correct_contents(lambda: with_retries(lambda: _read(part, file), retries))


def _read(part: ResolvedPart, file: RemoteFile) -> bytes:
    content = bytearray()
    with part.source.open(part.revision, file, 0, None) as stream:
        for chunk in stream.chunks:
            content += chunk
            if len(content) > file.size:
                raise CorruptFileError(f"{file.path} has more than {file.size:,} bytes")
    if len(content) < file.size:
        raise TransientError(f"{file.path} ended after {len(content):,} bytes")
    hashes = Hashes(file)
    hashes.update(memoryview(content))
    mismatch = hashes.mismatch()
    if mismatch:
        raise CorruptFileError(f"{file.path} {mismatch}")
    return bytes(content)


def _explained(error: DownloadError, part: ResolvedPart, excluded: int) -> UnsuitableModelError:
    patterns = f" (the patterns excluded {excluded} files)" if excluded else ""
    return UnsuitableModelError(f"{part.source.uri}: {error}{patterns}")


def path_in_model(spec: PartSpec, file: RemoteFile) -> str:
    """The path of a part's file within the model."""
    if spec.kind is PartKind.EMBEDDING:
        return f"{spec.folder}.{file.path.rpartition('.')[2]}"
    # The files of an adapter go into one folder, wherever they are in the repository.
    path = file.path.rpartition("/")[2] if spec.kind is PartKind.ADAPTER else file.path
    return f"{spec.folder}/{path}" if spec.folder else path
