"""Which files an adapter or a network by itself needs, which are no pipelines. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from downloader.errors import UnsuitableModelError
from downloader.remote import RemoteFile
from downloader.selection.pipeline import Component, Selection, select_component
from modelstore.layout import adapter_weights

ADAPTER_CONFIG_NAME = "adapter_config.json"


def select_adapter(files: Iterable[RemoteFile]) -> Selection:
    """The LoRA of a repository: the file of diffusers' own name, else the only safetensors file.

    Raises:
        UnsuitableModelError: there is none, or there are several.
    """
    by_path = {file.path: file for file in files}
    weights = adapter_weights(by_path)
    if not weights:
        raise UnsuitableModelError("the adapter has no safetensors")
    if len(weights) > 1:
        raise UnsuitableModelError(
            f"the adapter has several safetensors files ({', '.join(weights[:5])}): "
            "name one by allow_patterns"
        )
    folder, _, _ = weights[0].rpartition("/")
    config = f"{folder}/{ADAPTER_CONFIG_NAME}".lstrip("/")
    taken = [*weights, *([config] if config in by_path else [])]
    return Selection(tuple(by_path[path] for path in sorted(taken)), None)


def select_network(what: str, files: Iterable[RemoteFile], variant: str | None) -> Selection:
    """A network at the root of a repository: configurations and weights; ``what`` it is to be.

    Raises:
        UnsuitableModelError: it has no config.json or no safetensors.
    """
    root = {file.path: file for file in files if "/" not in file.path}
    if "config.json" not in root:
        raise UnsuitableModelError(f"the {what} has no config.json")
    component = Component(what, library="", class_name="Model")
    taken, found = select_component(component, root, variant)
    selected = tuple(sorted(taken, key=lambda file: file.path))
    # The part itself is what lacks the variant: it has no components.
    return Selection(selected, found, ("",) if found != variant else ())
