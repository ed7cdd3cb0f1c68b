"""Errors in the form of A1111's web UI API."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

PATHS = re.compile(r"/sdapi/v1/.*", re.DOTALL)


def error_body(reason: str, status: int, error: BaseException | None) -> dict[str, Any]:
    """The body for an HTTP status. Clients show ``detail`` or ``errors``, so both have the reason.

    A1111 puts the name of a Python class into ``error``; here it is the phrase of the status.
    """
    return {
        "error": HTTPStatus(status).phrase,
        "detail": reason,
        "body": "",
        "errors": reason,
    }
