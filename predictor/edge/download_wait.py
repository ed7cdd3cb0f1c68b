"""Waits at startup for a download to complete."""

from __future__ import annotations

import asyncio
import logging

from predictor.edge.repository import is_published
from predictor.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LOG_SECONDS = 300.0


async def wait_for_download(settings: Settings) -> None:
    """Wait until the models are published, for at most ``max_download_wait_seconds``."""
    now = asyncio.get_running_loop().time
    deadline = now() + settings.max_download_wait_seconds
    next_log = now()
    while not await asyncio.to_thread(is_downloaded, settings):
        if now() >= deadline:
            logger.error(
                "no complete download within max_download_wait_seconds=%g",
                settings.max_download_wait_seconds,
            )
            return
        if now() >= next_log:
            logger.info("waiting for the download: %s", _missing(settings))
            next_log += _LOG_SECONDS
        await asyncio.sleep(_POLL_SECONDS)


def _missing(settings: Settings) -> str:
    names = " and ".join(settings.preload_names)
    what = f"{names} from preload" if names else "a published model"
    return (
        f"{settings.model_dir} does not contain {what} yet; `kubectl get jobs` shows the download; "
        f"waiting for at most {settings.max_download_wait_seconds:g} s"
    )


def is_downloaded(settings: Settings) -> bool:
    """Whether the models are published; False while a network volume fails."""
    try:
        return is_published(settings)
    except OSError as error:
        logger.warning("cannot look for the models: %s", error)
        return False
