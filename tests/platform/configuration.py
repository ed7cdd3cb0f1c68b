"""The stock ConfigMaps of KServe and Knative from ``configuration/``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "configuration"


@cache
def stock(name: str) -> dict[str, str]:
    """The data of a ConfigMap in a new installation; do not modify it."""
    data: dict[str, str] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))["data"]
    return data


def kserve() -> dict[str, Any]:
    """KServe's `inferenceservice-config` with the JSON of each key parsed."""
    return {key: json.loads(text) for key, text in stock("inferenceservice-config").items()}


def features(*enabled: str) -> dict[str, str]:
    """Knative's `config-features` with some flags enabled."""
    flags = stock("config-features")
    unknown = set(enabled) - flags.keys()
    assert not unknown, unknown
    return flags | dict.fromkeys(enabled, "enabled")
