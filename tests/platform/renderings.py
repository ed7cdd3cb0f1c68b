"""All renderings of the project: the manifests, the chart's cases and values, the examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.chart.rendering import CASES, ROOT, case, render
from tests.chart.test_chart_values import SWITCHES, with_value
from tests.chart.test_examples import NAMES, built, rendered

from .configuration import features, kserve
from .knative_controller import pod_of
from .knative_webhook import with_defaults
from .kserve_controller import deployment_pod, mount_storage, revision_template, versions
from .kserve_webhook import DEPLOYMENT_MODE, stored

Object = dict[str, Any]
_CLAIM = "kubernetes.podspec-persistent-volume-claim"
_WRITE = "kubernetes.podspec-persistent-volume-write"
_GROUP = "kubernetes.podspec-securitycontext"
# A model in an image, which has no value of its own, mounted in each way.
IMAGE = {"source": "oci+native://registry.example.com/models:1"}
MOUNTS = ("storage-uri", "volume")
# Renderings that need flags of Knative (see docs/operations.md). The others need none.
FLAGS = {
    "value predictor.nodeSelector": ("kubernetes.podspec-nodeselector",),
    "value predictor.tolerations": ("kubernetes.podspec-tolerations",),
    "value predictor.affinity": ("kubernetes.podspec-affinity",),
    "value predictor.topologySpreadConstraints": ("kubernetes.podspec-topologyspreadconstraints",),
    "value predictor.runtimeClassName": ("kubernetes.podspec-runtimeclassname",),
    "value predictor.priorityClassName": ("kubernetes.podspec-priorityclassname",),
    "value storage.mount": (_CLAIM,),
    "chart many-models": (_CLAIM,),
    "value predictor.cache.claimName": (_CLAIM, _WRITE),
    "value predictor.cache.subPath": (_CLAIM, _WRITE),
    "value predictor.cache.size": (_GROUP, _CLAIM, _WRITE),
    "value predictor.cache.accessModes": (_GROUP, _CLAIM, _WRITE),
    "value predictor.cache.storageClassName": (_GROUP, _CLAIM, _WRITE),
    "image volume": ("kubernetes.podspec-volumes-image",),
}


@dataclass(frozen=True)
class Made:
    """A pod that a cluster creates from one of our objects."""

    maker: Object
    pod: Object

    @property
    def mode(self) -> str:
        """`Knative`, `Standard`, or an empty string for all pods but a predictor's."""
        return str(self.maker["metadata"].get("annotations", {}).get(DEPLOYMENT_MODE, ""))


def overlay(name: str) -> str:
    """The name of the rendering of an example's overlay."""
    return f"overlay {name}"


def names() -> list[str]:
    """The names of all renderings; overlays need kubectl."""
    charts = [f"chart {name}" for name in ("default", *CASES)]
    examples = [*map(overlay, NAMES), *(f"values {name}" for name in NAMES)]
    images = [f"image {mount}" for mount in MOUNTS]
    return ["manifests", *charts, *examples, *images, *(f"value {key}" for key in SWITCHES)]


@cache
def objects(name: str) -> list[Object]:
    """The objects of a rendering, including the pod of `helm test`."""
    kind, _, which = name.partition(" ")
    if kind == "manifests":
        files = sorted((ROOT / "manifests").glob("*.yaml"))
        return [item for path in files for item in yaml.safe_load_all(path.read_text("utf-8"))]
    if kind == "overlay":
        return built(which)
    if kind == "values":
        return rendered(which)
    if kind == "chart":
        return [*case(which).objects, *case(which).hooks]
    if kind == "image":
        return render({"model": IMAGE, "storage": {"mount": which}}).objects
    switch = SWITCHES[which]
    switched = render(with_value(switch.given or {}, which, switch.value))
    return [*switched.objects, *switched.hooks]


def notes(name: str) -> str:
    """The notes that Helm prints for a case or a value of the chart."""
    kind, _, which = name.partition(" ")
    if kind == "chart":
        return case(which).notes
    switch = SWITCHES[which]
    return render(with_value(switch.given or {}, which, switch.value)).notes


def services(name: str) -> list[Object]:
    """The InferenceServices of a rendering."""
    return [item for item in objects(name) if item["kind"] == "InferenceService"]


def flags_of(name: str) -> dict[str, str]:
    """The Knative flags that the rendering needs."""
    return features(*FLAGS.get(name, ()))


def template_of(name: str, service: Object) -> Object:
    """The template of the Knative revision, after the webhooks."""
    return with_defaults(revision_template(stored(service, kserve())), flags_of(name))


def pods(name: str) -> list[Made]:
    """Every pod that a cluster creates for a rendering, as sent to the API server."""
    made = []
    for item in objects(name):
        if item["kind"] in ("Job", "Deployment"):
            made.append(Made(item, item["spec"]["template"]["spec"]))
        elif item["kind"] == "StatefulSet":
            made.append(Made(item, _stateful_pod(item)))
        elif item["kind"] == "Pod":
            made.append(Made(item, item["spec"]))
        elif item["kind"] == "InferenceService":
            made += [Made(item, _predictor_pod(name, one)) for one in versions(item)]
    return made


def _stateful_pod(item: Object) -> Object:
    """The pod with a volume for each claim template, as the controller creates it."""
    pod = item["spec"]["template"]["spec"]
    names = [claim["metadata"]["name"] for claim in item["spec"]["volumeClaimTemplates"]]
    claims = [
        {
            "name": name,
            "persistentVolumeClaim": {"claimName": f"{name}-{item['metadata']['name']}-0"},
        }
        for name in names
    ]
    return {**pod, "volumes": [*pod.get("volumes", []), *claims]}


def _predictor_pod(name: str, service: Object) -> Object:
    if service["metadata"]["annotations"][DEPLOYMENT_MODE] == "Standard":
        return mount_storage(deployment_pod(stored(service, kserve())))
    return mount_storage(pod_of(template_of(name, service), flags_of(name)))
