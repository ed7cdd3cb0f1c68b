"""Which files of a listing a part may use: safe names, the operator's patterns, single networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from downloader.errors import UnsuitableModelError
from downloader.selection.pipeline import Component, Selection, select_component
from downloader.sources.remote import RemoteFile
from modelstore.layout import MODEL_INDEX_NAME, adapter_weights

ADAPTER_CONFIG_NAME = "adapter_config.json"


def check_names(files: Iterable[RemoteFile]) -> None:
    """Check that no name leads out of the folder that the file is stored in.

    Raises:
        UnsuitableModelError: names the file.
    """
    for file in files:
        parts = file.path.split("/")
        if "\\" in file.path or "\0" in file.path or not {"", ".", ".."}.isdisjoint(parts):
            raise UnsuitableModelError(
                f"the file name {file.path!r} leads out of the model's folder"
            )


def filtered(
    files: Iterable[RemoteFile], allow: Sequence[str], deny: Sequence[str]
) -> tuple[RemoteFile, ...]:
    """The files that match one of ``allow``, if there are any, and none of ``deny``.

    A pattern is a glob over the whole path. One that ends in a slash matches everything below it,
    as in ``huggingface_hub``. The model index always stays, because it names the components.
    """
    return tuple(
        file
        for file in files
        if file.path == MODEL_INDEX_NAME
        or ((not allow or _matches(file, allow)) and not _matches(file, deny))
    )


def select_adapter(files: Iterable[RemoteFile]) -> Selection:
    """The LoRA of a repository: the file with diffusers' own name, else the only safetensors file.

    Raises:
        UnsuitableModelError: there is none, or there are several.
    """
    by_path = {file.path: file for file in files}
    weights = _only("adapter", adapter_weights(by_path))
    folder, _, _ = weights.rpartition("/")
    config = f"{folder}/{ADAPTER_CONFIG_NAME}".lstrip("/")
    selected = [weights, *([config] if config in by_path else [])]
    return Selection(tuple(by_path[path] for path in sorted(selected)), None)


def select_embedding(files: Iterable[RemoteFile]) -> Selection:
    """The textual inversion embedding of a repository: its only safetensors file.

    Raises:
        UnsuitableModelError: there is none, or there are several.
    """
    by_path = {file.path: file for file in files if file.path.endswith(".safetensors")}
    return Selection((by_path[_only("embedding", sorted(by_path))],), None)


def _only(kind: str, weights: Sequence[str]) -> str:
    if not weights:
        raise UnsuitableModelError(f"the {kind} has no safetensors")
    if len(weights) > 1:
        raise UnsuitableModelError(
            f"the {kind} has several safetensors files ({', '.join(weights[:5])}): "
            "select one with allow_patterns"
        )
    return weights[0]


def select_network(kind: str, files: Iterable[RemoteFile], variant: str | None) -> Selection:
    """The configurations and weights at the root of a repository; ``kind`` is for messages.

    Raises:
        UnsuitableModelError: there is no config.json or no safetensors file.
    """
    root = {file.path: file for file in files if "/" not in file.path}
    if "config.json" not in root:
        raise UnsuitableModelError(f"the {kind} has no config.json")
    component = Component(kind, library="", class_name="Model")
    selected, found = select_component(component, root, variant)
    ordered = tuple(sorted(selected, key=lambda file: file.path))
    # The part itself lacks the variant: it has no components.
    return Selection(ordered, found, ("",) if found != variant else ())


def _matches(file: RemoteFile, patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(file.path, f"{pattern}*" if pattern.endswith("/") else pattern)
        for pattern in patterns
    )
