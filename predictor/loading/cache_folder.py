"""The folder of torch's compiler cache, without which torch and diffusers cannot be imported."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def ensure_cache_folder() -> None:
    """Let torch be imported if the temporary folder is full or read-only.

    torch creates the folder on import, even if nothing is compiled.
    """
    try:
        Path(os.environ.get(_VARIABLE) or tempfile.gettempdir()).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("no folder for torch's compiler cache: %s", error)
        # Any folder that exists: without ``compile``, torch writes nothing to it.
        os.environ[_VARIABLE] = os.sep
