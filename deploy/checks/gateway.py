"""Gateway: the Gateway or IngressClass of our routes exists and admits them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.errors import ForbiddenError
from deploy.explain.snapshot import condition, message_of
from deploy.objects import Object, dig, name_of, of_kind, title

TITLE = "gateway"
_GATEWAY = ("gateway.networking.k8s.io/v1", "Gateway")
_INGRESS_CLASS = ("networking.k8s.io/v1", "IngressClass")
_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """No findings without routes of our own; a missing CRD is a finding of the Kubernetes check."""
    for route in of_kind(objects, "HTTPRoute"):
        for parent in dig(route, "spec", "parentRefs") or ():
            if parent.get("kind", "Gateway") == "Gateway" and cluster.knows(*_GATEWAY):
                yield _parent(cluster, route, parent)
    for ingress in of_kind(objects, "Ingress"):
        yield _class_of(cluster, ingress)


def _parent(cluster: Cluster, route: Object, parent: Object) -> Finding:
    name, place = str(parent.get("name")), parent.get("namespace") or cluster.namespace
    what = f"gateway {place}/{name}, to which {title(route)} belongs,"
    try:
        gateway = cluster.get(*_GATEWAY, name, place)
    except ForbiddenError as error:
        return Finding("warn", f"{what} cannot be checked", str(error))
    if gateway is None:
        return Finding(
            "fail",
            f"{what} does not exist",
            "Name one of `kubectl get gateways --all-namespaces` (chart value "
            "predictor.route.parentRefs or jobs.route.parentRefs).",
        )
    programmed = condition(gateway, "Programmed")
    if programmed.get("status") != "True":
        why = message_of(programmed) or programmed.get("reason") or "no controller has processed it"
        return Finding(
            "warn",
            f"{what} is not ready: {why}",
            f"Inspect it: kubectl --namespace {place} describe gateway {name}",
        )
    return _listeners(cluster, gateway, parent, what)


def _listeners(cluster: Cluster, gateway: Object, parent: Object, what: str) -> Finding:
    place, section = dig(gateway, "metadata", "namespace"), parent.get("sectionName")
    listeners = [
        one
        for one in dig(gateway, "spec", "listeners") or ()
        if section in (None, one.get("name")) and parent.get("port") in (None, one.get("port"))
    ]
    if not listeners:
        return Finding(
            "fail",
            f"{what} has no listener {section or parent.get('port')!r}",
            "Name one of its listeners in `sectionName` (chart value predictor.route.parentRefs or "
            "jobs.route.parentRefs).",
        )
    if place != cluster.namespace and all(map(_is_closed, listeners)):
        return Finding(
            "fail",
            f"{what} admits only routes of its own namespace {place}",
            "Its administrator can set `allowedRoutes.namespaces.from` of the listener to All, or "
            "to Selector with a label of this namespace.",
        )
    return Finding("ok", f"{what} exists")


def _is_closed(listener: Object) -> bool:
    """A listener without `allowedRoutes` admits the routes of its own namespace alone."""
    return (dig(listener, "allowedRoutes", "namespaces", "from") or "Same") == "Same"


def _class_of(cluster: Cluster, ingress: Object) -> Finding:
    wanted = dig(ingress, "spec", "ingressClassName")
    try:
        classes = cluster.list(*_INGRESS_CLASS)
    except ForbiddenError as error:
        return Finding("warn", f"the class of {title(ingress)} cannot be checked", str(error))
    known = ", ".join(map(name_of, classes)) or "none"
    if wanted and wanted not in map(name_of, classes):
        return Finding(
            "fail",
            f"ingress class {wanted!r}, which {title(ingress)} names, does not exist",
            "Name an existing one (chart value predictor.ingress.className or "
            f"jobs.ingress.className). Available: {known}",
        )
    default = [
        one for one in classes if dig(one, "metadata", "annotations", _DEFAULT_CLASS) == "true"
    ]
    if not wanted and not default:
        return Finding(
            "warn",
            f"{title(ingress)} names no class, and the cluster has no default one",
            "Name one (chart value predictor.ingress.className or jobs.ingress.className). "
            f"Available: {known}",
        )
    return Finding("ok", f"{title(ingress)} has an ingress class")
