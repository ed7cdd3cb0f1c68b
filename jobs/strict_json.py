"""JSON as RFC 8259 defines it.

The standard library accepts NaN, infinity and lone surrogates. A response can contain none of
them, so a record with one could never be read again.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(raw: bytes) -> Any:
    """Parse UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is not valid JSON, or nested too deep.
    """
    try:
        document = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse)
        # Surrogates without the other half of their pair have no UTF-8 form.
        if _SURROGATE.search(raw):
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("is nested too deep") from None
    return document


def write_json(document: Any) -> bytes:
    """The compact form.

    Raises:
        ValueError: a number of the document was too large for a float.
    """
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
