"""The generated parts of the chart's README and of its values schema.

They derive from the chart's ``values.yaml`` and the settings of the predictor and of the jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic_settings import BaseSettings

import jobs.settings
from predictor.settings import Settings

BEGIN = "<!-- AUTO-GENERATED: from values.yaml by `make manifests` -->\n"
END = "<!-- /AUTO-GENERATED -->\n"

# The chart itself decides these: the model's name sets the first, the pod's probes need the second,
# `predictor.blockList` and `predictor.apiKeys` mount the files, and `predictor.rateLimitStorage`
# reads a Secret, and `predictor.cache` mounts the cache.
SETTINGS_OF_THE_CHART = frozenset(
    {"model_dir", "host", "block_list_file", "api_keys_file", "rate_limit_storage", "cache_dir"}
)
# `jobs` and its Secrets set these; the probes need the host and the port.
JOBS_SETTINGS_OF_THE_CHART = frozenset(
    {"host", "port", "api_keys_file", "redis_url", "sqlite_path", "bucket_url", "models"}
    | {"predictor_url", "predictor_urls", "metrics_urls", "predictor_api_key", "webhook_secrets"}
)


class UndocumentedValueError(Exception):
    """A leaf of ``values.yaml`` has no ``# --`` comment above it."""


@dataclass(frozen=True)
class Value:
    """One documented value of the chart."""

    key: str
    default: Any
    description: str


def documented_values(values_yaml: str) -> list[Value]:
    """The values in file order; a mapping with a ``# --`` comment counts as one value."""
    root = yaml.compose(values_yaml, Loader=yaml.SafeLoader)
    return list(_leaves(root, "", values_yaml.splitlines()))


def with_values_table(readme: str, values_yaml: str) -> str:
    """The README with its generated table updated."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = "".join(map(_row, documented_values(values_yaml)))
    table = f"\n| value | default | what it does |\n| --- | --- | --- |\n{rows}\n"
    return before + BEGIN + table + END + after


def with_settings(schema_json: str) -> str:
    """The schema with the settings of both programs, so that Helm rejects unknown settings."""
    schema = json.loads(schema_json)
    settings = schema["$defs"]["predictor"]["properties"]["settings"]
    settings["properties"] = dict(_setting_schemas(Settings, SETTINGS_OF_THE_CHART))
    settings = schema["properties"]["jobs"]["properties"]["settings"]
    settings["properties"] = dict(
        _setting_schemas(jobs.settings.Settings, JOBS_SETTINGS_OF_THE_CHART)
    )
    return json.dumps(schema, indent=2) + "\n"


def _setting_schemas(
    program: type[BaseSettings], excluded: Set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in program.model_json_schema()["properties"].items():
        if name not in excluded:
            yield name, {key: schema[key] for key in schema if key not in ("title", "default")}


def _leaves(node: yaml.MappingNode, parent: str, lines: list[str]) -> Iterator[Value]:
    for key_node, value_node in node.value:
        key = f"{parent}{key_node.value}"
        description = _comment_above(key_node.start_mark.line, lines)
        if description:
            yield Value(key, yaml.safe_load(yaml.serialize(value_node)), description)
        elif isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _leaves(value_node, f"{key}.", lines)
        else:
            raise UndocumentedValueError(f"{key}: add a `# --` comment above it in values.yaml")


def _comment_above(line: int, lines: list[str]) -> str:
    comment: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment.insert(0, lines[line].lstrip().removeprefix("#").strip())
    text = " ".join(comment)
    return text.removeprefix("-- ") if text.startswith("-- ") else ""


def _row(value: Value) -> str:
    description = value.description.replace("|", "\\|")
    return f"| `{value.key}` | `{json.dumps(value.default)}` | {description} |\n"
