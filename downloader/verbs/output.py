"""What a verb prints on stdout: lines for people, or an object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping

from downloader.settings import Settings


def tell(settings: Settings, text: str, document: Mapping[str, object]) -> None:
    """Print ``text``, or with ``--log_format json`` the ``document``."""
    print(json.dumps(document) if settings.log_format == "json" else text, flush=True)
