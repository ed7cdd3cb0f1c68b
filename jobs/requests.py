"""What a caller submits: the envelope of a job and the ``:predict`` body inside it.

The fields of the envelope are checked and removed. The rest goes to the predictor, which validates
it; here it only gets its seeds, so that every try makes the same pictures.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jobs.errors import InvalidRequestError, UnknownModelError
from jobs.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY, NewJob, Webhook
from jobs.settings import Settings
from jobs.strict_json import read_json, write_json
from jobs.webhook_target import checked_url

# As the predictor draws them.
_SEED_BITS = 32
# The predictor's bound; a larger number may not fit into a column of the storage.
_LARGEST_SEED = 2**53 - 1
# In the API of the predictor, the same as no seed.
_ANY_SEED = (None, -1)
MAX_KEY_LENGTH = 255
SHORTEST_EXPIRY_SECONDS = 1
_ENVELOPE = ("model", "priority", "expires_in", "webhook")
# Bounds the search for misspelt names.
_CHECKED_FIELDS, _LONGEST_NAME = 100, 12
# How many webhooks a receiver gets at the same time.
_LANES_PER_RECEIVER = 4


@dataclass(frozen=True)
class Envelope:
    """The fields of a job in addition to those of ``:predict``; ``expires_in`` is in seconds."""

    model: str
    priority: int
    expires_in: float
    webhook: Webhook | None


def new_job(raw: bytes, idempotency_key: str | None, settings: Settings, owner: str = "") -> NewJob:
    """A job from the body of a request; a missing seed is drawn here.

    Raises:
        InvalidRequestError: names the field and the reason.
        UnknownModelError: the model takes no jobs.
    """
    document = read_document(raw)
    envelope = _take_envelope(document, settings)
    seed = draw_seeds(document)
    try:
        body = write_json(document)
    except ValueError:
        raise InvalidRequestError("", "the body contains a number that is too large") from None
    return NewJob(
        id=secrets.token_urlsafe(16),
        model=envelope.model,
        priority=envelope.priority,
        expires_in=envelope.expires_in,
        body=body,
        seed=seed,
        idempotency_key=_checked_key(idempotency_key),
        digest=hashlib.sha256(raw).hexdigest(),
        owner=owner,
        webhook=envelope.webhook,
    )


def read_document(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object with a prompt or instances.

    Raises:
        InvalidRequestError: it is not one.
    """
    try:
        document = read_json(raw)
    except ValueError:
        raise InvalidRequestError("", "the body is not valid JSON") from None
    if not isinstance(document, dict) or not ({"prompt", "instances"} & document.keys()):
        raise InvalidRequestError(
            "", 'the body must be a JSON object with "prompt" or "instances", as for :predict'
        )
    instances = document.get("instances", [{}])
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        raise InvalidRequestError("instances", "must be a list of JSON objects")
    if not instances:
        raise InvalidRequestError("instances", "is empty")
    return document


def draw_seeds(document: dict[str, Any]) -> int | None:
    """Give each instance without a seed one, in place; returns the seed of the first picture.

    None if the caller has sent something that is not a seed, which the predictor rejects.
    """
    if "instances" not in document:
        return _draw_seed(document, None)
    shared = document.get("parameters")
    inherited = shared.get("seed") if isinstance(shared, dict) else None
    seeds = [_draw_seed(instance, inherited) for instance in document["instances"]]
    return seeds[0]


def _draw_seed(values: dict[str, Any], inherited: object) -> int | None:
    parameters = values.get("parameters")
    holders = [parameters, values] if isinstance(parameters, dict) else [values]
    holder = next((one for one in holders if one.get("seed") is not None), None)
    seed = inherited if holder is None else holder["seed"]
    if seed in _ANY_SEED:
        seed = secrets.randbits(_SEED_BITS)
        # A field in both places is an error, so write where it is, null included.
        (next((one for one in holders if "seed" in one), values))["seed"] = seed
    if not isinstance(seed, int) or isinstance(seed, bool):
        return None
    return seed if 0 <= seed <= _LARGEST_SEED else None


def _take_envelope(document: dict[str, Any], settings: Settings) -> Envelope:
    # The predictor rejects unknown fields, but does not know these.
    for name in list(document)[:_CHECKED_FIELDS]:
        if name in _ENVELOPE or len(name) > _LONGEST_NAME:
            continue
        if close := get_close_matches(name, _ENVELOPE, 1, cutoff=0.8):
            raise InvalidRequestError(name, f"is not a field; did you mean {close[0]}?")
    return Envelope(
        _model(document, settings.model_names),
        _priority(document),
        _expires_in(document, settings),
        _webhook(document, settings),
    )


def _model(document: dict[str, Any], names: tuple[str, ...]) -> str:
    model = document.pop("model", None)
    if model is None:
        return names[0]
    if not isinstance(model, str):
        raise InvalidRequestError("model", "must be a string")
    if model not in names:
        raise UnknownModelError(
            f"model: {model!r} takes no jobs; the models are {', '.join(names)}"
        )
    return model


def _priority(document: dict[str, Any]) -> int:
    priority = _number(document, "priority", DEFAULT_PRIORITY)
    if priority != int(priority) or not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        bounds = f"an integer from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}"
        raise InvalidRequestError("priority", f"{priority:g} is not {bounds}")
    return int(priority)


def _expires_in(document: dict[str, Any], settings: Settings) -> float:
    seconds = _number(document, "expires_in", settings.default_expires_in)
    if not SHORTEST_EXPIRY_SECONDS <= seconds <= settings.max_expires_in:
        bounds = f"between {SHORTEST_EXPIRY_SECONDS} and {settings.max_expires_in:g} seconds"
        raise InvalidRequestError("expires_in", f"{seconds:g} is not {bounds}")
    return seconds


def _webhook(document: dict[str, Any], settings: Settings) -> Webhook | None:
    """Who is notified. A job stays in one lane, so that its events are sent in order."""
    text = document.pop("webhook", None)
    if text is None:
        return None
    if not settings.webhook_keys:
        raise InvalidRequestError("webhook", "this server signs no webhooks: set webhook_secrets")
    try:
        url = checked_url(
            text, allows_http=settings.webhook_allow_http, networks=settings.allowed_networks
        )
    except ValueError as error:
        raise InvalidRequestError("webhook", str(error)) from None
    lane = f"{url.netloc.decode()}/{secrets.randbelow(_LANES_PER_RECEIVER)}"
    return Webhook(str(url), lane)


def _number(document: dict[str, Any], name: str, default: float) -> float:
    """A number that is taken out of the document; null is the default."""
    value = document.pop(name, None)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        raise InvalidRequestError(name, "must be a number")
    return float(value)


def _checked_key(key: str | None) -> str:
    if key is None:
        return ""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequestError("Idempotency-Key", f"must have 1 to {MAX_KEY_LENGTH} characters")
    return key


def wait_seconds(headers: Mapping[str, str], most: float) -> float:
    """How long the caller waits for the end: ``Prefer: wait=N`` (RFC 7240), at most ``most``.

    An invalid preference is ignored, as the RFC demands.
    """
    for preference in headers.get("prefer", "").split(","):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait" and value.strip().strip('"').isdecimal():
            return min(float(value.strip().strip('"')), most)
    return 0.0
