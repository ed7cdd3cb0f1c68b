"""Forms to JSON values: ``multipart/form-data`` (RFC 7578), and the query of a URL.

Clients write nested values as ``list[]``, ``object[key]`` and ``list[][key]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from predictor.errors import InvalidRequestError
from predictor.requests.fields import CANONICAL, FIELDS

_MULTIPART = b"multipart/form-data"
# A valid request has fewer than 40.
_MAX_FIELDS = 256
_NAME = re.compile(r"([^\[\]]+)(\[\])?(?:\[([^\[\]]+)\])?")
_TEXTS = {field.name for field in FIELDS if field.datatype == "BYTES"}
# The keys of nested objects whose values are numbers.
_NUMBERS = {"scale"}


def multipart_fields(content: bytes, content_type: str) -> list[tuple[str, str | bytes]]:
    """The parts of a form, in order; a part with a file name is bytes, another one text.

    Raises:
        InvalidRequestError: it is not a form, cut off, or has too many parts.
    """
    kind, options = parse_options_header(content_type)
    if kind != _MULTIPART or not options.get(b"boundary"):
        raise InvalidRequestError("", "the body must be multipart/form-data with a boundary")
    parts = _Parts()
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks)
        parser.write(content)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError("", f"the body is not valid form data: {error}") from None
    if not parts.is_complete:
        raise InvalidRequestError("", "the form data is cut off: its last boundary is missing")
    return parts.fields


def query_fields(query: bytes) -> list[tuple[str, str]]:
    """The fields of the query of a URL, in order.

    Raises:
        InvalidRequestError: it is not valid UTF-8, or has too many fields.
    """
    try:
        return parse_qsl(
            query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except UnicodeDecodeError:
        raise InvalidRequestError("", "the query is not valid UTF-8") from None
    except ValueError:
        raise InvalidRequestError("", f"the query has more than {_MAX_FIELDS} fields") from None


class _Parts:
    """Collects the parts that ``MultipartParser`` finds."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str | bytes]] = []
        self.is_complete = False
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._content: list[bytes] = []

    @property
    def callbacks(self) -> Any:
        """As ``MultipartParser`` takes them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._name,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        self._disposition, self._content = b"", []

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        content = b"".join(self._content)
        if len(self.fields) == _MAX_FIELDS:
            raise InvalidRequestError("", f"the form has more than {_MAX_FIELDS} fields")
        self.fields.append((name, content if b"filename" in options else _text(name, content)))

    def _complete(self) -> None:
        self.is_complete = True


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(name, "is not valid UTF-8") from None


def nested(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields as one object; a single ``list[]`` is a list too.

    Raises:
        InvalidRequestError: a field occurs twice, or the entries of a list differ in their fields.
    """
    document: dict[str, Any] = {}
    columns: dict[str, dict[str, list[Any]]] = {}
    for written, value in fields:
        found = _NAME.fullmatch(written)
        name, is_list, key = found.groups() if found else (written, None, None)
        if is_list and key:
            columns.setdefault(name, {}).setdefault(key, []).append(value)
        elif is_list:
            _list_in(document, name).append(value)
        elif key:
            _put(_object_in(document, name), key, value, written)
        else:
            _put(document, name, value, written)
    for name, rows in columns.items():
        _put(document, name, _rows(name, rows), name)
    return document


def _put(holder: dict[str, Any], name: str, value: Any, written: str) -> None:
    if name in holder:
        raise InvalidRequestError(written, "is given twice")
    holder[name] = value


def _list_in(document: dict[str, Any], name: str) -> list[Any]:
    found = document.setdefault(name, [])
    if not isinstance(found, list):
        raise InvalidRequestError(name, "is given twice")
    return found


def _object_in(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = document.setdefault(name, {})
    if not isinstance(found, dict):
        raise InvalidRequestError(name, "is given twice")
    return found


def _rows(name: str, columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """One object for each entry; a client sends all values of one key before those of the next."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise InvalidRequestError(
            name, "the entries differ in their keys; give each key in every entry, or send JSON"
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def typed(document: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with numbers, booleans and objects in place of their text.

    ``others`` maps the fields that are not in the table to True if their values are text. An empty
    value of any other field is left out, as forms send it for a field that was not filled in.
    """
    return {
        name: _typed(value) if _is_read(name, others) else value
        for name, value in document.items()
        if value != "" or not _is_read(name, others)
    }


def _is_read(name: str, others: Mapping[str, Any]) -> bool:
    known = CANONICAL.get(name)
    if known is None:
        return name in others and not others[name]
    return known not in _TEXTS


def _typed(value: Any) -> Any:
    """JSON in a text; the text itself if it is not valid, which the check of types refuses."""
    if isinstance(value, dict):
        return {key: _scalar(one) if key in _NUMBERS else one for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value.lower() if value in ("True", "False") else value)
    except orjson.JSONDecodeError:
        return value
