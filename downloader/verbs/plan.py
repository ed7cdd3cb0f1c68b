"""``plan``: what a fetch would bring, without fetching."""

from __future__ import annotations

from downloader.plan import Plan, make_plan, resolve_model
from downloader.settings import Settings
from downloader.sources import Access
from downloader.spec import read_models
from downloader.verbs.output import tell
from downloader.workers import Stop


def plan(settings: Settings) -> str:
    """Print each model's files and bytes; reads model indexes, no weights, and writes nothing."""
    stop = Stop()
    plans: list[Plan] = []
    with Access(settings) as access:
        for spec in read_models(settings):
            found = make_plan(resolve_model(spec, access, stop), access, stop)
            tell(settings, _text(found), _document(found))
            plans.append(found)
    return "\n".join(_headline(found) for found in plans)


def _headline(plan: Plan) -> str:
    return (
        f"{plan.model.name}: {len(plan.files)} files, {plan.size:,} bytes, {plan.variant_told}, "
        f"revision {plan.model.revision}"
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
