"""``fetch``: publish every model of the spec."""

from __future__ import annotations

import logging

from downloader.download import Report, download_model
from downloader.errors import DownloadError, exit_code
from downloader.settings import Settings
from downloader.sources import Access
from downloader.spec import ModelSpec, read_models
from downloader.volume.staging import check_folder

logger = logging.getLogger("downloader")


def fetch(settings: Settings) -> str:
    """Publish them one after another; one that fails does not keep the others back.

    Raises:
        DownloadError: the first one that is not worth another try, else the first one.
    """
    models = read_models(settings)
    check_folder(settings.target)
    reports: list[Report] = []
    failures: list[DownloadError] = []
    with Access(settings) as access:
        for model in models:
            try:
                reports.append(_fetch_one(model, access))
            except DownloadError as error:
                if len(models) > 1:
                    logger.warning("%s failed: %s", model.name, error, extra={"event": "failed"})
                failures.append(error)
    if failures:
        raise _worst(failures)
    return "\n".join(str(report) for report in reports)


def _fetch_one(model: ModelSpec, access: Access) -> Report:
    report = download_model(model, access)
    if access.settings.log_format != "json":
        print(report, flush=True)
    return report


def _worst(failures: list[DownloadError]) -> DownloadError:
    """A retry of the Job mends codes 1, 6 and 7 at most."""
    return next((one for one in failures if exit_code(one) not in (1, 6, 7)), failures[0])
