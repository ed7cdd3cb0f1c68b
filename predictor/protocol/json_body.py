"""JSON from a caller: parsed, and bounded in depth and number of values."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson

from predictor.errors import InvalidRequestError

# A valid request has a depth of 5, and fewer than 30 values for each picture. Code that walks or
# checks a document is recursive, or collects an error for each value.
MAX_DEPTH = 32
MAX_VALUES = 20_000


def read_json(body: bytes) -> Any:
    """Parse a request body, with or without a byte order mark.

    JSON has no NaN, infinity or lone surrogates (RFC 8259), so they are refused. If a name occurs
    twice in an object, the last value counts.

    Raises:
        InvalidRequestError: it is not valid JSON, or too deep or too large to check.
    """
    try:
        document = orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError("", f"the body is not valid JSON: {error}") from None
    check_shape(document)
    return document


def check_shape(document: Any) -> None:
    """Refuse a document of more than ``MAX_DEPTH`` levels or ``MAX_VALUES`` values.

    Raises:
        InvalidRequestError: names the bound.
    """
    level, values = [document], 0
    for _ in range(MAX_DEPTH):
        values += len(level)
        level = list(islice(_children(level), MAX_VALUES))
        if not level:
            return
        if values + len(level) > MAX_VALUES:
            raise InvalidRequestError("", f"the body has more than {MAX_VALUES} values")
    raise InvalidRequestError("", f"the body is nested more than {MAX_DEPTH} levels deep")


def _children(level: list[Any]) -> Iterator[Any]:
    for parent in level:
        if isinstance(parent, dict):
            yield from parent.values()
        elif isinstance(parent, list):
            yield from parent
