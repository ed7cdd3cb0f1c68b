"""The configurations of a model folder, read as JSON: nothing is loaded yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelstore.layout import MODEL_INDEX_NAME
from predictor.errors import ModelLoadError


@dataclass(frozen=True)
class Configs:
    """``model_index.json`` of ``folder`` and its components' own files; empty where one is not."""

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
        """Of a ``UNet2DConditionModel``."""
        return self._component("unet")

    @cached_property
    def transformer(self) -> dict[str, Any]:
        """Of SD3, FLUX and what came after."""
        return self._component("transformer")

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """Of the noise scheduler."""
        return _read(self.folder / "scheduler" / "scheduler_config.json")

    def _component(self, name: str) -> dict[str, Any]:
        return _read(self.folder / name / "config.json")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path.name} is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ModelLoadError(f"{path.name} must hold a JSON object")
    return document
