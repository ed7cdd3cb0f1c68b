"""The models to publish: one from the settings, or several from a YAML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from downloader.errors import InvalidSettingError
from downloader.settings import SourceSettings
from downloader.spec.uri import FileSpec, SourceSpec, parse_spec
from modelstore.errors import InvalidNameError
from modelstore.layout import (
    ADAPTERS_FOLDER_NAME,
    CLASSIFIER_FOLDER_NAME,
    CONTROLNETS_FOLDER_NAME,
    EMBEDDINGS_FOLDER_NAME,
    REFINER_FOLDER_NAME,
    SKIPPABLE_COMPONENTS,
    check_name,
)

_T = TypeVar("_T", bound=BaseModel)


class PartKind(Enum):
    """What a part is, which decides how its files are selected."""

    PIPELINE = "pipeline"
    SINGLE_FILE = "single file"
    ADAPTER = "adapter"
    EMBEDDING = "embedding"
    CONTROLNET = "ControlNet"
    CLASSIFIER = "safety classifier"


@dataclass(frozen=True)
class PartSpec:
    """A source, and the folder of the model that its files go into; ``""`` for the pipeline.

    ``subfolder`` is the folder of the source that has the files; ``""`` for the whole source.
    """

    folder: str
    kind: PartKind
    source: SourceSpec
    variant: str | None = None
    allow_patterns: tuple[str, ...] = ()
    deny_patterns: tuple[str, ...] = ()
    skip_components: tuple[str, ...] = ()
    subfolder: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A name and its parts: first the pipeline or single file, then the others."""

    name: str
    parts: tuple[PartSpec, ...]


def _plain_name(name: str) -> str:
    try:
        return check_name(name)
    except InvalidNameError as error:
        raise ValueError(str(error)) from None


Name = Annotated[str, AfterValidator(_plain_name)]


def _skippable(component: str) -> str:
    if component not in SKIPPABLE_COMPONENTS:
        names = ", ".join(SKIPPABLE_COMPONENTS)
        raise ValueError(f"{component!r} is not one of {names}")
    return component


Patterns = tuple[Annotated[str, Field(min_length=1)], ...]
SkippedComponents = tuple[Annotated[str, AfterValidator(_skippable)], ...]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(_Entry):
    """A source, and the digest that a single file requires."""

    source: str
    sha256: str = Field(default="", validate_default=True)

    @field_validator("source")
    @classmethod
    def _is_a_source(cls, text: str) -> str:
        # Validates only the address of a single file; its digest comes next.
        digest = "0" * 64 if text.startswith("http") else ""
        _parsed(text, digest)
        return text

    @field_validator("sha256")
    @classmethod
    def _belongs_to_the_source(cls, digest: str, info: ValidationInfo) -> str:
        if "source" in info.data:
            _parsed(info.data["source"], digest)
        return digest


class AdapterEntry(_Source):
    """One LoRA: a single file, or the LoRA of a repository, a folder or a prefix."""

    name: Name
    allow_patterns: Patterns = ()

    def part(self) -> PartSpec:
        """This entry as a part of the model."""
        source = parse_spec(self.source, self.sha256)
        return PartSpec(
            f"{ADAPTERS_FOLDER_NAME}/{self.name}",
            PartKind.ADAPTER,
            source,
            allow_patterns=self.allow_patterns,
        )


class EmbeddingEntry(AdapterEntry):
    """One textual inversion embedding, from the same sources as a LoRA."""

    def part(self) -> PartSpec:
        """This entry as a part of the model; the folder is the file without its suffix."""
        folder = f"{EMBEDDINGS_FOLDER_NAME}/{self.name}"
        return replace(super().part(), folder=folder, kind=PartKind.EMBEDDING)


class ControlNetEntry(_Entry):
    """One ControlNet: a repository, folder or prefix with its config.json and weights, or a folder
    of one.
    """

    name: Name
    source: str
    subfolder: str = ""
    variant: str | None = None

    @field_validator("source")
    @classmethod
    def _is_a_folder_of_files(cls, text: str) -> str:
        return _folder_of_files(text)

    @field_validator("subfolder")
    @classmethod
    def _is_a_subfolder(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and ("\\" in path or not {"", ".", ".."}.isdisjoint(path.split("/"))):
            raise ValueError(f"{path!r} is not a folder within the source, as in 'canny'")
        return path

    def part(self, default_variant: str | None) -> PartSpec:
        """This entry as a part of the model; ``default_variant`` applies if it names none."""
        variant = default_variant if self.variant is None else self.variant or None
        folder = f"{CONTROLNETS_FOLDER_NAME}/{self.name}"
        source = parse_spec(self.source)
        return PartSpec(folder, PartKind.CONTROLNET, source, variant, subfolder=self.subfolder)


_NamedT = TypeVar("_NamedT", AdapterEntry, ControlNetEntry, EmbeddingEntry)


class ModelEntry(_Source):
    """One model; docs/downloads.md explains each field."""

    name: Name
    variant: str | None = None
    allow_patterns: Patterns = ()
    deny_patterns: Patterns = ()
    skip_components: SkippedComponents = ()
    refiner: str | None = None
    adapters: tuple[AdapterEntry, ...] = ()
    controlnets: tuple[ControlNetEntry, ...] = ()
    embeddings: tuple[EmbeddingEntry, ...] = ()
    safety_classifier: str | None = None

    @field_validator("refiner", "safety_classifier")
    @classmethod
    def _is_a_folder_of_files(cls, text: str | None) -> str | None:
        return None if text is None else _folder_of_files(text)

    @field_validator("adapters", "controlnets", "embeddings")
    @classmethod
    def _names_differ(cls, entries: tuple[_NamedT, ...]) -> tuple[_NamedT, ...]:
        _check_names([entry.name for entry in entries])
        return entries

    def model(self, default_variant: str) -> ModelSpec:
        """The model with its parts; ``default_variant`` applies if the entry names none."""
        variant = (default_variant if self.variant is None else self.variant) or None
        source = parse_spec(self.source, self.sha256)
        kind = PartKind.SINGLE_FILE if isinstance(source, FileSpec) else PartKind.PIPELINE
        patterns = (self.allow_patterns, self.deny_patterns)
        # The order must not distinguish two revisions.
        skipped = tuple(sorted(set(self.skip_components)))
        parts = [PartSpec("", kind, source, variant, *patterns, skipped)]
        if self.refiner:
            parts.append(
                PartSpec(REFINER_FOLDER_NAME, PartKind.PIPELINE, parse_spec(self.refiner), variant)
            )
        parts += [adapter.part() for adapter in self.adapters]
        parts += [controlnet.part(variant) for controlnet in self.controlnets]
        parts += [embedding.part() for embedding in self.embeddings]
        if self.safety_classifier:
            parts.append(
                PartSpec(
                    CLASSIFIER_FOLDER_NAME,
                    PartKind.CLASSIFIER,
                    parse_spec(self.safety_classifier),
                    variant,
                )
            )
        return ModelSpec(self.name, tuple(parts))


class Document(_Entry):
    """The YAML file."""

    models: tuple[ModelEntry, ...] = Field(min_length=1)

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: tuple[ModelEntry, ...]) -> tuple[ModelEntry, ...]:
        _check_names([model.name for model in models])
        return models


def read_models(settings: SourceSettings) -> tuple[ModelSpec, ...]:
    """The models that the settings name.

    Raises:
        InvalidSettingError: names the entry and the field, as in ``models[1].adapters[0].sha256``.
    """
    if settings.spec is None:
        return (_from_settings(settings),)
    if settings.source:
        raise InvalidSettingError("--source and --spec exclude each other")
    document = _validated(
        Document, _load(settings.spec), lambda location: f"{settings.spec}: {_dotted(location)}"
    )
    models = tuple(entry.model(settings.variant) for entry in document.models)
    chosen = tuple(model for model in models if settings.name in ("", model.name))
    if not chosen:
        raise InvalidSettingError(
            f"--name (DOWNLOADER_NAME): {settings.spec} has no model of this name"
        )
    return chosen


def _from_settings(settings: SourceSettings) -> ModelSpec:
    for field in ("source", "name"):
        if not getattr(settings, field):
            raise InvalidSettingError(
                f"--{field} (DOWNLOADER_{field.upper()}): required unless --spec is set"
            )
    given = {
        "source": settings.source,
        "sha256": settings.sha256,
        "name": settings.name,
        "allow_patterns": settings.allowed,
        "deny_patterns": settings.denied,
        "skip_components": settings.skipped,
    }
    return _validated(ModelEntry, given, _flag).model(settings.variant)


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidSettingError(f"--spec (DOWNLOADER_SPEC): {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise InvalidSettingError(f"{path} is not valid YAML{line}") from None


def _validated(kind: type[_T], given: Any, place: Callable[[Sequence[int | str]], str]) -> _T:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        # The message does not contain the rejected value, which may be a secret.
        first = error.errors(include_input=False, include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidSettingError(f"{place(first['loc'])}{reason}") from None


def _dotted(location: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{text.removeprefix('.')}: " if text else ""


def _flag(location: Sequence[int | str]) -> str:
    return f"--{location[0]} (DOWNLOADER_{str(location[0]).upper()}): "


def _check_names(names: Sequence[str]) -> None:
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise ValueError(f"the name {twice[0]!r} is used twice")


def _folder_of_files(text: str) -> str:
    if text.startswith("http"):
        raise ValueError(
            "a single file is not allowed here; use a repository, a folder or a prefix"
        )
    _parsed(text, "")
    return text


def _parsed(text: str, sha256: str) -> None:
    try:
        parse_spec(text, sha256)
    except InvalidSettingError as error:
        raise ValueError(str(error).removeprefix("source ")) from None
