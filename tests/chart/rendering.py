"""The chart, rendered by the real Helm engine and parsed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
CASES = {path.name.removesuffix("-values.yaml"): path for path in (CHART / "ci").glob("*.yaml")}
RELEASE = "stable-diffusion"
HOOK = "helm.sh/hook"

Object = dict[str, Any]


class UniqueKeyLoader(yaml.CSafeLoader):
    """Refuses a mapping that repeats a key, as the API server's strict decoding does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate keys in {keys}", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


@dataclass(frozen=True)
class Rendered:
    """The chart rendered with one set of values; ``hooks`` are the objects of ``helm test``."""

    objects: list[Object]
    hooks: list[Object]
    notes: str

    def one(self, kind: str) -> Object:
        """The only object of its kind."""
        return _only(self.all_of(kind))

    def all_of(self, kind: str) -> list[Object]:
        """The objects of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    def named(self, kind: str, name: str) -> Object:
        """The object with this kind and name."""
        return _only([item for item in self.all_of(kind) if item["metadata"]["name"] == name])

    @property
    def predictors(self) -> dict[str, Object]:
        """The predictors' pod specs by the names of their InferenceServices."""
        services = self.all_of("InferenceService")
        return {item["metadata"]["name"]: item["spec"]["predictor"] for item in services}

    def kinds(self) -> list[str]:
        """The kinds of all objects, in alphabetical order."""
        return sorted(item["kind"] for item in self.objects)

    @property
    def predictor(self) -> Object:
        """The predictor's pod spec in the InferenceService."""
        spec: Object = self.one("InferenceService")["spec"]["predictor"]
        return spec

    @property
    def predictor_container(self) -> Object:
        """The only container of the predictor."""
        return _only(self.predictor["containers"])

    @property
    def downloader_pod(self) -> Object:
        """The pod of the download Job."""
        spec: Object = self.one("Job")["spec"]["template"]["spec"]
        return spec

    @property
    def downloader_container(self) -> Object:
        """The only container of the download Job."""
        return _only(self.downloader_pod["containers"])


def render(values: Mapping[str, Any] | None = None, release: str = RELEASE) -> Rendered:
    """Render the chart and validate the values as Helm does; equal values render once."""
    return _render(json.dumps(values or {}, sort_keys=True), release)


@cache
def _render(values: str, release: str) -> Rendered:
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(json.loads(values), name=release, namespace="pictures")
    notes = [text for name, text in texts.items() if name.endswith("NOTES.txt")]
    parsed = [
        item
        for name, text in texts.items()
        if name.endswith(".yaml")
        for item in yaml.load_all(text, UniqueKeyLoader)
        if item
    ]
    objects = [item for item in parsed if HOOK not in item["metadata"].get("annotations", {})]
    return Rendered(objects, [item for item in parsed if item not in objects], notes[0])


@cache
def case(name: str) -> Rendered:
    """The rendering of a case in ``helm/ci``, or of the default values; cached."""
    return render(case_values(name))


def case_values(name: str) -> Object:
    """The values of a case; empty for ``default``."""
    if name == "default":
        return {}
    return helm_python.values_from_yaml(CASES[name].read_text("utf-8"))


def plain_env(container: Object) -> dict[str, str]:
    """A container's environment variables with literal values."""
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def _only(items: list[Object]) -> Object:
    (item,) = items
    return item
