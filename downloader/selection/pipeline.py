"""Which files of a repository a diffusers pipeline needs. Pure: reads names and the model index.

Selects ``model_index.json``, ``generation_defaults.json``, and from the folders of the components
that the index names the configurations, tokenizer files and safetensors. Pickles and Python files
can run code when they are loaded, so a model that needs them is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from downloader.errors import UnsuitableModelError
from downloader.sources.lfs import LFS_REASON, is_lfs_pointer
from downloader.sources.remote import SMALL_SUFFIXES, RemoteFile
from modelstore.layout import (
    GENERATION_DEFAULTS_NAME,
    MODEL_INDEX_NAME,
    OPTIONAL_COMPONENTS,
)

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx"})

# diffusers and transformers name weights by these two stems, a variant, and a shard number.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    r"(?:\.(?P<variant>\w+))?(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?\.safetensors"
)
_WEIGHTS_INDEX = re.compile(
    r"(?:diffusion_pytorch_model|model)\.safetensors\.index(?:\.(?P<variant>\w+))?\.json"
)
_WITHOUT_WEIGHTS = re.compile(
    r".*(?:Scheduler|Tokenizer|TokenizerFast|FeatureExtractor|Processor|ProcessorFast)"
)


@dataclass(frozen=True)
class Component:
    """One entry of ``model_index.json``: a folder and the class that is loaded from it."""

    name: str
    library: str
    class_name: str

    @property
    def has_weights(self) -> bool:
        """Schedulers, tokenizers and processors have no weights; every other class is a network."""
        return _WITHOUT_WEIGHTS.fullmatch(self.class_name) is None


@dataclass(frozen=True)
class Selection:
    """The files to fetch, by path; ``variant`` is None if no component has the requested one.

    ``without_variant`` are the components whose plain files are fetched instead, ``missing`` the
    optional components that the source does not have as safetensors.
    """

    files: tuple[RemoteFile, ...]
    variant: str | None
    without_variant: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def check_is_pipeline(files: Iterable[RemoteFile]) -> None:
    """Check that the listing is that of a pipeline.

    Raises:
        UnsuitableModelError: it is not.
    """
    if all(file.path != MODEL_INDEX_NAME for file in files):
        raise UnsuitableModelError(f"not a diffusers pipeline: it has no {MODEL_INDEX_NAME}")


def read_components(model_index: bytes) -> tuple[Component, ...]:
    """The components that a ``model_index.json`` names, without null entries and options.

    Raises:
        UnsuitableModelError: it is not a valid model index.
    """
    if is_lfs_pointer(model_index):
        raise UnsuitableModelError(f"{MODEL_INDEX_NAME} {LFS_REASON}")
    try:
        document = json.loads(model_index)
    except (ValueError, RecursionError):
        raise UnsuitableModelError(f"{MODEL_INDEX_NAME} is not valid JSON") from None
    if not isinstance(document, Mapping):
        raise UnsuitableModelError(f"{MODEL_INDEX_NAME} is not a JSON object")
    if not isinstance(document.get("_class_name", ""), str):
        raise UnsuitableModelError(
            f"{MODEL_INDEX_NAME} names a pipeline class of the repository: "
            "the code of a repository is never run"
        )
    components = tuple(_components(document))
    if not any(component.has_weights for component in components):
        raise UnsuitableModelError(f"{MODEL_INDEX_NAME} names no component with weights")
    return components


def select(
    files: Iterable[RemoteFile], components: Iterable[Component], variant: str | None
) -> Selection:
    """Select what ``components`` need from a checked listing, preferring ``variant``.

    A component that the listing lacks is left out if diffusers accepts None in its place.

    Raises:
        UnsuitableModelError: names the component that cannot be loaded, and why.
    """
    folders = _by_folder(files)
    wanted = [folders[""].get(name) for name in (MODEL_INDEX_NAME, GENERATION_DEFAULTS_NAME)]
    used: dict[str, str | None] = {}
    missing: list[str] = []
    for component in components:
        folder = folders.get(component.name, {})
        if component.name in OPTIONAL_COMPONENTS and _is_missing(component, folder):
            missing.append(component.name)
            continue
        needed, found = select_component(component, folder, variant)
        wanted += needed
        if component.has_weights:
            used[component.name] = found
    selected = sorted((file for file in wanted if file), key=lambda file: file.path)
    without = tuple(name for name, found in used.items() if found != variant)
    chosen = variant if variant in used.values() else None
    return Selection(tuple(selected), chosen, without, tuple(missing))


def select_component(
    component: Component, folder: Mapping[str, RemoteFile], variant: str | None
) -> tuple[list[RemoteFile], str | None]:
    """The files that one component needs, by name, and the variant of its weights.

    Raises:
        UnsuitableModelError: says why the component cannot be loaded.
    """
    _check_component(component, folder)
    needed = _small_files(folder)
    if not component.has_weights:
        return needed, None
    found = _pick_variant(component, folder, variant)
    return [*needed, *_weights(component, folder, found)], found


def _components(document: Mapping[str, object]) -> Iterator[Component]:
    for name, value in document.items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        match value:
            case [str(library), str(class_name)] if name.isidentifier():
                yield Component(name, library, class_name)
            case _:
                raise UnsuitableModelError(f"{MODEL_INDEX_NAME}: {name!r} is not a component")


def _by_folder(files: Iterable[RemoteFile]) -> dict[str, dict[str, RemoteFile]]:
    folders: dict[str, dict[str, RemoteFile]] = {"": {}}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        folders.setdefault(folder, {})[name] = file
    return folders


def _is_missing(component: Component, folder: Mapping[str, RemoteFile]) -> bool:
    """Whether there is no folder, or one without safetensors and without code."""
    if not folder:
        return True
    has_code = f"{component.library}.py" in folder
    return component.has_weights and not has_code and not any(map(_WEIGHTS.fullmatch, folder))


def _check_component(component: Component, folder: Mapping[str, RemoteFile]) -> None:
    if not folder:
        raise UnsuitableModelError(
            f"{MODEL_INDEX_NAME} names the component {component.name!r}, which has no folder"
        )
    if f"{component.library}.py" in folder:
        raise UnsuitableModelError(
            f"the component {component.name!r} needs {component.library}.py: "
            "the code of a repository is never run"
        )


def _small_files(folder: Mapping[str, RemoteFile]) -> list[RemoteFile]:
    return [
        file
        for name, file in folder.items()
        # The index of weights is selected with the weights.
        if PurePosixPath(name).suffix in SMALL_SUFFIXES and ".index." not in name
    ]


def _pick_variant(
    component: Component, folder: Mapping[str, RemoteFile], variant: str | None
) -> str | None:
    """The requested variant or, if the component lacks it, the plain files (None)."""
    available = {match["variant"] for match in map(_WEIGHTS.fullmatch, folder) if match}
    for candidate in (variant, None):
        if candidate in available:
            return candidate
    if available:
        offered = ", ".join(sorted(filter(None, available)))
        raise UnsuitableModelError(
            f"the component {component.name!r} has weights only in the variants {offered}"
        )
    if any(PurePosixPath(name).suffix in _PICKLE_SUFFIXES for name in folder):
        raise UnsuitableModelError(
            f"the component {component.name!r} has no safetensors, only pickles or another format: "
            "loading a pickle can run code"
        )
    raise UnsuitableModelError(f"the component {component.name!r} has no safetensors")


def _weights(
    component: Component, folder: Mapping[str, RemoteFile], variant: str | None
) -> Sequence[RemoteFile]:
    """The single file of ``variant`` if it exists, else all shards and their index."""
    matches = [match for match in map(_WEIGHTS.fullmatch, folder) if match]
    matches = [match for match in matches if match["variant"] == variant]
    single = [folder[match[0]] for match in matches if match["shard"] is None]
    if single:
        return single
    indexes = [match for match in map(_WEIGHTS_INDEX.fullmatch, folder) if match]
    index = [folder[match[0]] for match in indexes if match["variant"] == variant]
    numbers = {int(match["shard"]) for match in matches}
    expected = {int(match["shards"]) for match in matches}
    if not index or len(expected) != 1 or numbers != set(range(1, min(expected) + 1)):
        raise UnsuitableModelError(f"the component {component.name!r} lacks shards or their index")
    return list(chain((folder[match[0]] for match in matches), index))
