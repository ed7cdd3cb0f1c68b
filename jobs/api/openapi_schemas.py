"""The parameters and bodies in the OpenAPI document, with the bounds of this server's settings."""

from __future__ import annotations

from typing import Any

from jobs.api.documents import SHORT_NAMES
from jobs.api.event_stream import SILENCE_SECONDS
from jobs.api.job_routes import DEFAULT_PAGE, LARGEST_PAGE
from jobs.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY, STATUSES
from jobs.requests import MAX_KEY_LENGTH, SHORTEST_EXPIRY_SECONDS
from jobs.settings import Settings

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_TIME: Schema = {"type": "string", "format": "date-time"}
_PRIORITY: Schema = _COUNT | {"minimum": LOWEST_PRIORITY, "maximum": HIGHEST_PRIORITY}


def reference(kind: str, name: str) -> dict[str, str]:
    """A reference to a component, such as a schema."""
    return {"$ref": f"#/components/{kind}/{name}"}


def parameters(settings: Settings) -> dict[str, dict[str, Any]]:
    """All parameters by name, which is also their name as components."""
    wait = f"`wait=N` waits up to N seconds, at most {settings.max_wait_seconds:g}, for the end."
    limit = {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": DEFAULT_PAGE}
    key = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH}
    found = [
        ("path", "id", {"type": "string", "pattern": "^[^/]+$"}, "The identifier of a job."),
        ("path", "number", _COUNT, "The number of a picture, counted from 0."),
        ("query", "status", {"enum": [*STATUSES]}, "Only jobs with this status."),
        ("query", "limit", limit, "The most jobs of a page."),
        ("query", "cursor", _STRING, "The `next_cursor` of the page before."),
        ("header", "Idempotency-Key", key, "The same key and body name the same job."),
        ("header", "Prefer", _STRING, wait),
        ("header", "If-None-Match", _STRING, "The tags of files that the client has."),
        ("header", "Range", _STRING, "The part of the file to send, such as `bytes=0-99`."),
        ("header", "If-Range", _STRING, "The tag of the file to which `Range` refers."),
    ]
    return {
        name: {"in": place, "name": name, "schema": schema, "description": text}
        | ({"required": True} if place == "path" else {})
        for place, name, schema, text in found
    }


def schemas(settings: Settings) -> dict[str, Schema]:
    """The schemas of all bodies by name."""
    short = {"job_id": _STRING, "status": {"enum": sorted({*SHORT_NAMES.values()})}}
    page = {
        "jobs": {"type": "array", "items": reference("schemas", "Job")},
        "next_cursor": _nullable(_STRING),
    }
    return {
        "Submission": _submission(settings),
        "Job": _job(),
        "Picture": _picture(settings),
        "Page": _object(page),
        "ShortJob": _object(short, error=_STRING, result=_STRING),
        "Event": {
            "description": f"A comment follows {SILENCE_SECONDS:g} seconds without an event.",
            "oneOf": [
                _event("job", reference("schemas", "Job")),
                _event("preview", {"type": "object"}),
                _event("error", reference("schemas", "Error")),
            ],
        },
        "Error": _object({"error": _STRING}),
    }


def _submission(settings: Settings) -> Schema:
    expiry = _SECONDS | {"minimum": SHORTEST_EXPIRY_SECONDS, "maximum": settings.max_expires_in}
    names = settings.model_names
    properties = {
        "prompt": _STRING,
        "instances": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "model": {"enum": [*names, None], "default": names[0]},
        "priority": _nullable(_PRIORITY) | {"default": DEFAULT_PRIORITY},
        "expires_in": _nullable(expiry) | {"default": settings.default_expires_in},
    }
    if settings.webhook_keys:
        properties["webhook"] = _nullable({"type": "string", "format": "uri"})
    return {
        "type": "object",
        "description": "The body of the predictor's `:predict`, whose other fields are described "
        "by the predictor's `/openapi.json`, and the fields of a job.",
        "properties": properties,
        "anyOf": [{"required": ["prompt"]}, {"required": ["instances"]}],
    }


def _job() -> Schema:
    return _object(
        {
            "id": _STRING,
            "status": {"enum": [*STATUSES]},
            "model": _STRING,
            "seed": _nullable(_COUNT),
            "priority": _PRIORITY,
            "created_at": _TIME,
            "started_at": _nullable(_TIME),
            "ended_at": _nullable(_TIME),
            "expires_at": _TIME,
            "position": _nullable(_COUNT),
            "progress": _object({"step": _COUNT, "steps": _COUNT}),
            "estimated_seconds": _nullable(_SECONDS),
            "timings": _object(
                {
                    "queue_seconds": _SECONDS,
                    "start_seconds": _nullable(_SECONDS),
                    "run_seconds": _nullable(_SECONDS),
                }
            ),
            "tries": _COUNT,
            "error": _nullable(_STRING),
            "pictures": {"type": "array", "items": reference("schemas", "Picture")},
        }
    )


def _picture(settings: Settings) -> Schema:
    """A picture also has the fields of a prediction, such as its seed."""
    text = _nullable(_STRING)
    link = {"presigned_url": text} if settings.bucket_url else {}
    return _object({"url": text, "content_type": text, "bytes": _COUNT}, **link)


def _event(name: str, data: Schema) -> Schema:
    """A server-sent event, as OpenAPI 3.2 and generators of clients describe it."""
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return _object({"event": {"const": name}, "data": text})


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": required | optional,
        "required": [*required],
    }


def _nullable(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}
