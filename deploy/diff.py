"""What an object would change in the cluster: a unified diff of its fields, without secrets."""

from __future__ import annotations

import copy
import difflib
from typing import Any

import yaml

from deploy.objects import Object, dig, title

# Fields that the server sets itself, in a dry run as well.
_SERVER_FIELDS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
# Holds the whole object once more, a Secret's values included.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_SECRET_SECTIONS = ("data", "stringData")


def content(item: Object) -> Object:
    """The object without its status and the fields that the server sets."""
    kept = copy.deepcopy(item)
    kept.pop("status", None)
    for field in _SERVER_FIELDS:
        kept["metadata"].pop(field, None)
    return kept


def difference(before: Object, after: Object) -> list[str]:
    """The lines of a unified diff, from the cluster's object to ours; none if they are equal.

    The values of a Secret are masked: `***`, and where they change `*** (before)` and
    `*** (after)`.
    """
    old, new = content(before), content(after)
    if after["kind"] == "Secret":
        _mask(old, new)
    name = title(after)
    return list(
        difflib.unified_diff(
            _lines(old), _lines(new), f"{name} (cluster)", f"{name} (folder)", lineterm=""
        )
    )


def projected(value: Any, shape: Any) -> Any:
    """``value`` reduced to the fields that ``shape`` has; list items match by name, else by place.

    It makes an object of the cluster comparable to one without the server's defaults; it also
    drops keys of mappings that ``shape`` no longer has.
    """
    if isinstance(value, dict) and isinstance(shape, dict):
        return {key: projected(one, shape[key]) for key, one in value.items() if key in shape}
    if isinstance(value, list) and isinstance(shape, list):
        return [projected(one, _counterpart(one, place, shape)) for place, one in enumerate(value)]
    return value


def _counterpart(item: Any, place: int, shape: list[Any]) -> Any:
    name = dig(item, "name")
    if name is not None:
        return next((one for one in shape if dig(one, "name") == name), item)
    return shape[place] if place < len(shape) else item


def _mask(old: Object, new: Object) -> None:
    for section in _SECRET_SECTIONS:
        before, after = old.get(section) or {}, new.get(section) or {}
        changed = {key for key in before.keys() & after.keys() if before[key] != after[key]}
        for values, mark in ((before, "*** (before)"), (after, "*** (after)")):
            for key in values:
                values[key] = mark if key in changed else "***"


def _lines(item: Object) -> list[str]:
    annotations = item["metadata"].get("annotations") or {}
    annotations.pop(_LAST_APPLIED, None)
    if not annotations:
        item["metadata"].pop("annotations", None)
    text: str = yaml.safe_dump(item, sort_keys=True, default_flow_style=False, width=1000)
    return text.splitlines()
