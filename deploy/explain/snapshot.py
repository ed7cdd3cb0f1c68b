"""What was seen of one InferenceService or Job at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.objects import Object, dig, name_of


@dataclass(frozen=True)
class Snapshot:
    """The object waited for, its pods, the claims that they use, and the namespace's events.

    ``known`` are the marks of events from before the wait: they may be about what is mended now.
    """

    item: Object
    pods: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    events: Sequence[Object] = field(default=(), repr=False)
    known: frozenset[str] = frozenset()

    def events_of(self, kind: str, prefix: str = "") -> list[Object]:
        """Events about objects of ``kind`` whose names begin with ``prefix``, latest first."""
        about = [
            event
            for event in self.events
            if dig(event, "involvedObject", "kind") == kind
            and str(dig(event, "involvedObject", "name") or "").startswith(prefix)
        ]
        return sorted(about, key=event_time, reverse=True)

    def events_about(self, item: Object) -> list[Object]:
        """Events about this very object, latest first; none of a former one of the same name."""
        uid = dig(item, "metadata", "uid")
        return [
            event
            for event in self.events_of(item["kind"], name_of(item))
            if dig(event, "involvedObject", "name") == name_of(item)
            and dig(event, "involvedObject", "uid") in (uid, None)
        ]


def event_mark(event: Object) -> str:
    """Tells an event from its own repetition, which the API counts in the same object."""
    return f"{dig(event, 'metadata', 'name')} {event.get('count')} {event_time(event)}"


def event_time(event: Object) -> str:
    """When it was last seen, as the API writes it, which sorts as text."""
    return str(
        dig(event, "series", "lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or dig(event, "metadata", "creationTimestamp")
        or ""
    )


def condition(item: Object, kind: str) -> Object:
    """The condition of that type; empty where there is none."""
    conditions = dig(item, "status", "conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})
