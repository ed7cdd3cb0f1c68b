"""The verbs that read sources: ``fetch`` publishes every model, ``plan`` shows what it would."""

from __future__ import annotations

import logging

from downloader import settings
from downloader.download import Report, download_model
from downloader.errors import DownloadError, InvalidSettingError, exit_of
from downloader.logs import print_line, print_result
from downloader.plan import Plan, make_plan, resolve_model
from downloader.sources.access import Access
from downloader.spec import FolderSpec, ModelSpec, read_models
from downloader.volume.revisions import open_store
from downloader.volume.staging import check_folder
from downloader.workers import Stop
from modelstore import MARKER_NAME

logger = logging.getLogger("downloader")


def fetch(verb: settings.Fetch) -> str:
    """Publish the models one after another; a failure of one does not stop the others.

    Raises:
        DownloadError: the first one that no retry can fix, else the first one.
    """
    models = read_models(verb)
    check_folder(verb.target)
    reports: list[Report] = []
    failures: list[DownloadError] = []
    with Access(verb) as access:
        for model in models:
            try:
                reports.append(_fetch_one(model, verb, access))
            except DownloadError as error:
                if len(models) > 1:
                    logger.warning("%s failed: %s", model.name, error, extra={"event": "failed"})
                failures.append(error)
    if failures:
        raise next((one for one in failures if not exit_of(one).is_worth_a_retry), failures[0])
    return "\n".join(str(report) for report in reports)


def plan(verb: settings.Plan) -> str:
    """Print each model's files and sizes. Reads model indexes but no weights; writes nothing."""
    stop = Stop()
    plans: list[Plan] = []
    with Access(verb) as access:
        for spec in read_models(verb):
            found = make_plan(resolve_model(spec, access, stop), access, stop)
            print_result(verb.log_format, _text(found), _document(found))
            plans.append(found)
    return "\n".join(_headline(found) for found in plans)


def adopt(verb: settings.Adopt) -> str:
    """Publish the pipeline in the folder of the model's name; its files become a revision.

    Files are hard-linked and not copied, if the volume supports it. The folder itself is kept as
    the previous revision. A folder that is published already stays as it is.

    Raises:
        NotFoundError: there is no folder of this name.
        DownloadError: as for a download.
    """
    if not verb.name:
        raise InvalidSettingError("--name (DOWNLOADER_NAME): adopt requires a model name")
    store = open_store(verb)
    place = store.model(verb.name)
    if (place / MARKER_NAME).is_file():
        summary = f"{verb.name}: already published"
        print_result(verb.log_format, summary, {"event": "unchanged", "model": verb.name})
        return summary
    source = FolderSpec(place.absolute()).uri
    # The environment of a Job may have the settings of another download.
    others = {"spec": None, "sha256": "", "allow_patterns": "", "deny_patterns": ""}
    given = verb.model_dump() | others | {"source": source, "skip_components": ""}
    return fetch(settings.Fetch(**given))


def _fetch_one(model: ModelSpec, verb: settings.Fetch, access: Access) -> Report:
    report = download_model(model, verb, access)
    if verb.log_format != "json":
        print_line(str(report))
    return report


def _headline(plan: Plan) -> str:
    return (
        f"{plan.model.name}: {len(plan.files)} files, {plan.size:,} bytes, "
        f"{plan.variant_summary}, revision {plan.model.revision}"
    )


def _text(plan: Plan) -> str:
    parts = [f"  {part.source.uri} at {part.revision}" for part in plan.model.parts]
    files = [f"{file.remote.size:>16,}  {file.path}" for file in plan.files]
    return "\n".join([_headline(plan), *parts, *files])


def _document(plan: Plan) -> dict[str, object]:
    return {
        "event": "plan",
        "message": _headline(plan),
        "model": plan.model.name,
        "files": len(plan.files),
        "total_bytes": plan.size,
        "revision": plan.model.parts[0].revision,
        "sources": {part.source.uri: part.revision for part in plan.model.parts},
        "paths": {file.path: file.remote.size for file in plan.files},
    }
