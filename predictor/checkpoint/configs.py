"""The JSON files of a model folder: its configurations and its generation defaults."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from modelstore.layout import GENERATION_DEFAULTS_NAME, MODEL_INDEX_NAME
from predictor.errors import ModelLoadError
from predictor.requests import GenerationDefaults


@dataclass(frozen=True)
class Configs:
    """``model_index.json`` of ``folder`` and the components' files; a missing file reads as {}."""

    folder: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """``model_index.json``: the pipeline's class, its components and its own settings."""
        return _read(self.folder / MODEL_INDEX_NAME)

    @property
    def class_name(self) -> str:
        """The pipeline's class, as diffusers names it."""
        return str(self.index.get("_class_name", ""))

    @cached_property
    def unet(self) -> dict[str, Any]:
        """Configuration of a ``UNet2DConditionModel``."""
        return self._component("unet")

    @cached_property
    def transformer(self) -> dict[str, Any]:
        """Configuration of the transformer of SD3, FLUX and later models."""
        return self._component("transformer")

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """Configuration of the noise scheduler."""
        return _read(self.folder / "scheduler" / "scheduler_config.json")

    def _component(self, name: str) -> dict[str, Any]:
        return _read(self.folder / name / "config.json")


def read_generation_defaults(folder: Path, fallback: GenerationDefaults) -> GenerationDefaults:
    """Read the defaults of the model in ``folder``, with ``fallback`` for the missing ones.

    Raises:
        ModelLoadError: the file is not a JSON object, has an unknown field or a wrong type.
    """
    given = _read(folder / GENERATION_DEFAULTS_NAME)
    _check_types(given, asdict(fallback))
    return GenerationDefaults(**asdict(fallback) | given)


def _check_types(given: dict[str, object], known: dict[str, object]) -> None:
    for name, value in given.items():
        if name not in known:
            names = ", ".join(field.name for field in fields(GenerationDefaults))
            raise ModelLoadError(f"{GENERATION_DEFAULTS_NAME}: {name!r} is not one of {names}")
        # Some float fields are None if the model does not use them.
        is_float = known[name] is None or isinstance(known[name], float)
        allowed = (int, float) if is_float else (type(known[name]),)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ModelLoadError(f"{GENERATION_DEFAULTS_NAME}: {name} cannot be {value!r}")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise ModelLoadError(f"{path.name} must contain a JSON object")
    return document
