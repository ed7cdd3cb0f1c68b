"""The wait for a download that is not complete when the server starts."""

from __future__ import annotations

import asyncio
import logging

from predictor.edge.repository import is_published
from predictor.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LOG_SECONDS = 300.0


async def wait_for_download(settings: Settings) -> None:
    """Return once the models are published, or after ``max_download_wait_seconds``."""
    now = asyncio.get_running_loop().time
    deadline = now() + settings.max_download_wait_seconds
    next_log = now()
    while not await asyncio.to_thread(_is_there, settings):
        if now() >= deadline:
            logger.error(
                "gave up after max_download_wait_seconds=%g", settings.max_download_wait_seconds
            )
            return
        if now() >= next_log:
            logger.info("waiting for the download: %s", _missing(settings))
            next_log += _LOG_SECONDS
        await asyncio.sleep(_POLL_SECONDS)


def _missing(settings: Settings) -> str:
    names = " and ".join(settings.preload_names)
    what = f"{names} of preload" if names else "a published model"
    return (
        f"{settings.model_dir} does not hold {what} yet; `kubectl get jobs` shows the download; "
        f"waiting {settings.max_download_wait_seconds:g} s at most"
    )


def _is_there(settings: Settings) -> bool:
    """A network volume may fail for a moment: then the models are not there yet."""
    try:
        return is_published(settings)
    except OSError as error:
        logger.warning("looking for the models failed: %s", error)
        return False
