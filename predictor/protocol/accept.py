"""The media type that an ``Accept`` header prefers (RFC 9110, section 12.5.1)."""

from __future__ import annotations

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


def preferred(accept: str | None, known: tuple[str, ...]) -> str | None:
    """The media type in ``known`` with the highest weight; None if the header names none of them.

    A wildcard expresses no preference: other fields of the request decide.
    """
    weights = {kind: weight for kind, weight in _ranges(accept or "") if kind in known}
    best = max(weights.values(), default=0.0)
    return next((kind for kind, weight in weights.items() if weight == best > 0), None)


def _ranges(accept: str) -> list[tuple[str, float]]:
    return [_range(part) for part in accept.lower().split(",") if part.strip()]


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0
