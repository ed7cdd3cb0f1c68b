"""What our objects refer to by name and do not contain; pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.objects import Object, dig, title
from deploy.workload import containers, pod_specs

PULL_KEY = ".dockerconfigjson"
TLS_KEY = "tls.crt"
# Every version that serves them, latest first.
_KUEUE = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
_DEVICES = ("resource.k8s.io/v1", "resource.k8s.io/v1beta2", "resource.k8s.io/v1beta1")
_FIELDS = (
    ("priorityClassName", "scheduling.k8s.io/v1", "PriorityClass"),
    ("runtimeClassName", "node.k8s.io/v1", "RuntimeClass"),
    ("serviceAccountName", "v1", "ServiceAccount"),
)
# Kind, and its fields: in `valueFrom`, in `envFrom`, of a volume, and of the volume's name.
_FORMS = (
    ("Secret", "secretKeyRef", "secretRef", "secret", "secretName"),
    ("ConfigMap", "configMapKeyRef", "configMapRef", "configMap", "name"),
)


@dataclass(frozen=True)
class DataUse:
    """A Secret or ConfigMap, or one of its keys, that a pod or Ingress reads."""

    kind: str
    name: str
    key: str
    optional: bool
    user: str


@dataclass(frozen=True)
class Reference:
    """Another object that an object names; the API serves its kind in one of the versions."""

    api_versions: tuple[str, ...]
    kind: str
    name: str
    user: str


def data_used(objects: Sequence[Object]) -> list[DataUse]:
    """The Secrets and ConfigMaps that containers read, mount or use to pull their image."""
    uses = [use for item, spec in pod_specs(objects) for use in _of_pod(spec, title(item))]
    for item in objects:
        if item["kind"] == "ServiceAccount":
            uses += _pull_secrets(item, title(item))
        for tls in (dig(item, "spec", "tls") or ()) if item["kind"] == "Ingress" else ():
            if tls.get("secretName"):
                uses.append(DataUse("Secret", tls["secretName"], TLS_KEY, False, title(item)))
    return list(dict.fromkeys(uses))


def references(objects: Sequence[Object]) -> list[Reference]:
    """The classes, accounts, device claims and queues that the objects name."""
    found = [
        Reference(*one, title(item)) for item, spec in pod_specs(objects) for one in _named(spec)
    ]
    found += [
        Reference(_KUEUE, "LocalQueue", queue, title(item))
        for item in objects
        if (queue := dig(item, "metadata", "labels", "kueue.x-k8s.io/queue-name"))
    ]
    return list(dict.fromkeys(found))


def _named(spec: Object) -> Iterator[tuple[tuple[str, ...], str, str]]:
    for field, version, kind in _FIELDS:
        if name := spec.get(field):
            yield (version,), kind, str(name)
    for claim in spec.get("resourceClaims") or ():
        for field in ("ResourceClaim", "ResourceClaimTemplate"):
            if name := claim.get(f"{field[0].lower()}{field[1:]}Name"):
                yield _DEVICES, field, str(name)


def _of_pod(spec: Object, user: str) -> Iterator[DataUse]:
    for form in _FORMS:
        yield from _of_variables(spec, user, form)
        yield from _of_volumes(spec, user, form)
    yield from _pull_secrets(spec, user)


def _of_variables(spec: Object, user: str, form: tuple[str, ...]) -> Iterator[DataUse]:
    kind, of_key, of_all = form[:3]
    for container in containers(spec):
        for variable in container.get("env") or ():
            if one := dig(variable, "valueFrom", of_key):
                yield DataUse(kind, one["name"], one["key"], bool(one.get("optional")), user)
        for source in container.get("envFrom") or ():
            if one := source.get(of_all):
                yield DataUse(kind, one["name"], "", bool(one.get("optional")), user)


def _of_volumes(spec: Object, user: str, form: tuple[str, ...]) -> Iterator[DataUse]:
    kind, _, _, field, name_field = form
    for volume in spec.get("volumes") or ():
        sources = [(volume.get(field), name_field)]
        sources += [(one.get(field), "name") for one in dig(volume, "projected", "sources") or ()]
        for source, name in sources:
            for key in _keys(source, volume["name"], spec) if source else ():
                yield DataUse(kind, source[name], key, bool(source.get("optional")), user)


def _keys(source: Object, volume: str, spec: Object) -> list[str]:
    """The keys that the pod needs of a volume, by `items` or `subPath`; else the empty key."""
    if items := source.get("items"):
        return [str(one["key"]) for one in items]
    mounts = (one for container in containers(spec) for one in container.get("volumeMounts") or ())
    paths = (str(one.get("subPath") or "") for one in mounts if one.get("name") == volume)
    return list(dict.fromkeys(paths)) or [""]


def _pull_secrets(item: Object, user: str) -> Iterator[DataUse]:
    for one in item.get("imagePullSecrets") or ():
        yield DataUse("Secret", one["name"], PULL_KEY, False, user)
