"""Server-side apply as the API server does it: owners, conflicts, removal.

Lists are replaced as a whole; the real server merges lists that have keys.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
Path = tuple[str, ...]
Owners = dict[Path, str]


class FieldConflictError(Exception):
    """Another manager has set these fields to another value."""

    def __init__(self, fields: dict[Path, str]) -> None:
        super().__init__(str(fields))
        self.fields = fields

    def status(self) -> Object:
        """The response of a real server."""
        causes = [
            {
                "reason": "FieldManagerConflict",
                "message": f'conflict with "{manager}" using v1',
                "field": "." + ".".join(path),
            }
            for path, manager in self.fields.items()
        ]
        count = f"{len(causes)} conflict{'s' * (len(causes) > 1)}"
        details = "".join(f"{one['message']}: {one['field']}" for one in causes)
        return {
            "kind": "Status",
            "status": "Failure",
            "reason": "Conflict",
            "code": 409,
            "message": f"Apply failed with {count}: {details}",
            "details": {"causes": causes},
        }


def leaves(item: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of nested mappings with its path; lists are values."""
    if isinstance(item, dict) and item:
        for key, value in item.items():
            yield from leaves(value, (*path, str(key)))
    else:
        yield path, item


def merge(
    existing: Object | None, owners: Owners, applied: Object, manager: str, force: bool
) -> tuple[Object, Owners]:
    """The object and its owners after ``manager`` applied; raises FieldConflictError."""
    result = copy.deepcopy(existing) if existing else {}
    wanted = {path: value for path, value in leaves(applied) if path[0] != "status"}
    current = dict(leaves(result))
    conflicts = {
        path: owners[path]
        for path, value in wanted.items()
        if path in current and current[path] != value and owners.get(path, manager) != manager
    }
    if conflicts and not force:
        raise FieldConflictError(conflicts)
    after = {path: owner for path, owner in owners.items() if owner != manager or path in wanted}
    for path in owners.keys() - after.keys():
        _remove(result, path)
    for path, value in wanted.items():
        _put(result, path, copy.deepcopy(value))
        after[path] = manager
    return result, after


def _put(item: Object, path: Path, value: Any) -> None:
    for step in path[:-1]:
        item = item.setdefault(step, {})
    item[path[-1]] = value


def _remove(item: Object, path: Path) -> None:
    for step in path[:-1]:
        item = item.get(step) or {}
    item.pop(path[-1], None)
