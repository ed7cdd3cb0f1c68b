"""The state of one InferenceService or Job at one moment, and how it is explained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.objects import Object, dig, name_of

# What a controller reports when another writer was faster; it retries at once.
_CONFLICT = "the object has been modified"
# The API server ends a generated name with five characters of this alphabet, new at each attempt
# (k8s.io/apimachinery, pkg/util/rand).
_GENERATED_NAME = re.compile(r'(\b[Pp]ods? "[a-z0-9.-]+?)[bcdfghjklmnpqrstvwxz2456789]{5}"')


@dataclass(frozen=True)
class Snapshot:
    """The object, its pods, the claims that they use, and the namespace's events.

    ``owners`` are the Revisions, Deployments and ReplicaSets between an InferenceService and its
    pods. ``known`` are the marks of events and failures that are older than the change that is
    waited for.
    """

    item: Object
    pods: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    events: Sequence[Object] = field(default=(), repr=False)
    known: frozenset[str] = frozenset()
    owners: Sequence[Object] = field(default=(), repr=False)

    def events_of(self, kind: str, prefix: str = "") -> list[Object]:
        """Events about objects of ``kind`` whose names begin with ``prefix``, latest first.

        Events from before ``item`` was created belong to a former object and are left out.
        """
        created = _seconds(str(dig(self.item, "metadata", "creationTimestamp") or ""))
        about = [
            event
            for event in self.events
            if dig(event, "involvedObject", "kind") == kind
            and str(dig(event, "involvedObject", "name") or "").startswith(prefix)
            and _seconds(event_time(event)) >= created
            and _CONFLICT not in str(event.get("message"))
        ]
        return sorted(about, key=event_time, reverse=True)

    def events_about(self, item: Object) -> list[Object]:
        """Events about this very object, latest first; none about a former one of the same name."""
        uid = dig(item, "metadata", "uid")
        return [
            event
            for event in self.events_of(item["kind"], name_of(item))
            if dig(event, "involvedObject", "name") == name_of(item)
            and dig(event, "involvedObject", "uid") == uid
        ]


@dataclass(frozen=True)
class Explanation:
    """One reason and what to do about it.

    ``fatal`` means that waiting does not help; without ``advice`` waiting is all there is to do.
    """

    reason: str
    advice: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.reason}\n{self.advice}" if self.advice else self.reason


def message_of(item: Object) -> str:
    """The message of an event or condition, the same for each attempt that fails alike.

    Generated pod names lose their random end. A write conflict explains nothing and is empty.
    """
    message = str(item.get("message") or "").strip()
    return "" if _CONFLICT in message else _GENERATED_NAME.sub(r'\1*"', message)


def event_mark(event: Object) -> str:
    """Identifies an event; a repetition, which the API counts in the same object, has its own."""
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
    """The condition of that type; empty if there is none."""
    conditions = dig(item, "status", "conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _seconds(time: str) -> str:
    """A time of the API without fractions of a second, which only some of its times have."""
    return time[: len("2026-11-21T10:00:00")]
