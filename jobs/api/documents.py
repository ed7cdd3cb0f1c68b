"""A job as JSON: the full document, and that of the short names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.job import Job, Status

# The words of the short names.
SHORT_NAMES: dict[Status, str] = {
    "queued": "pending",
    "starting": "processing",
    "in_progress": "processing",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}


def document_of(job: Job) -> dict[str, Any]:
    """The document of ``/v1/jobs/{id}``; times are in UTC, durations in seconds."""
    return {
        "id": job.id,
        "status": job.status,
        "model": job.model,
        "seed": job.seed,
        "priority": job.priority,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "expires_at": _time(job.expires_at),
        "position": job.position,
        "progress": {"step": job.step, "steps": job.steps},
        "estimated_seconds": _rounded(job.estimated_seconds),
        "timings": _timings(job),
        "tries": job.tries,
        "error": job.error,
        "pictures": _pictures(job),
    }


def short_document_of(job: Job) -> dict[str, Any]:
    """The document of ``/status/{job_id}``."""
    document: dict[str, Any] = {"job_id": job.id, "status": SHORT_NAMES[job.status]}
    if job.error:
        document["error"] = job.error
    if job.status == "succeeded":
        document["result"] = f"/result/{job.id}"
    return document


def path_of(job: Job) -> str:
    """The path of a job, for ``Location``."""
    return f"/v1/jobs/{job.id}"


def _pictures(job: Job) -> list[dict[str, Any]]:
    pictures = []
    for number, picture in enumerate(job.pictures):
        is_available = bool(picture.media_type) and not job.has_lost_pictures
        url = f"{path_of(job)}/pictures/{number}" if is_available else None
        described = {"url": url, "content_type": picture.media_type or None, "bytes": picture.size}
        pictures.append({**described, **picture.details})
    return pictures


def _timings(job: Job) -> dict[str, float | None]:
    """How long the job has waited, and its last try for the predictor, and has run, up to now."""
    until = job.ended_at or job.read_at
    started, accepted = job.started_at, job.accepted_at
    return {
        "queue_seconds": _rounded((started or until) - job.created_at),
        "start_seconds": None if started is None else _rounded((accepted or until) - started),
        "run_seconds": None if accepted is None else _rounded(until - accepted),
    }


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds), 3)
