"""Who created an InferenceService, and what it runs."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.explain.snapshot import Explanation
from deploy.objects import Object, dig
from deploy.workload import containers, is_ours

# What KServe's own controller is called among the managers of fields.
_CONTROLLERS = ("manager", "kserve-controller-manager", "controller")
# By label or annotation: the tool that keeps the object as its source says.
_KEEPERS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
    "meta.helm.sh/release-name": "Helm",
}


def explain_origin(item: Object) -> Explanation:
    """What the service runs and who applied it; advice only for one that is not ours."""
    managers = ", ".join(_managers(item)) or "unknown"
    keeper = next((keeper for label, keeper in _KEEPERS.items() if _mark(item, label)), None)
    applied = f"Applied by {managers}" + (f", kept by {keeper}." if keeper else ".")
    if is_ours(item):
        return Explanation(f"Runs the predictor of this project ({_what_runs(item)}). {applied}")
    source = f"the source of {keeper}" if keeper else "its own manifest"
    return Explanation(
        f"Not from this project: runs {_what_runs(item)}. {applied}",
        f"Where the advice below names a chart value or `up`, change the same field in {source} "
        "and apply it as before.",
    )


def _what_runs(item: Object) -> str:
    predictor = dig(item, "spec", "predictor") or {}
    if isinstance(model := predictor.get("model"), dict):
        kind = dig(model, "modelFormat", "name") or "unknown"
        status = item.get("status") or {}
        runtime = status.get("clusterServingRuntimeName") or status.get("servingRuntimeName")
        runtime = model.get("runtime") or runtime or "not chosen yet"
        return f"a model of format {kind}, runtime {runtime}"
    images = [str(one["image"]) for one in containers(predictor) if one.get("image")]
    return f"image {', '.join(images)}" if images else "a runtime of KServe"


def _managers(item: Object) -> Iterator[str]:
    found = (
        str(one.get("manager"))
        for one in dig(item, "metadata", "managedFields") or ()
        if not one.get("subresource")
    )
    yield from dict.fromkeys(one for one in found if one not in _CONTROLLERS)


def _mark(item: Object, name: str) -> str | None:
    metadata = item["metadata"]
    found: str | None = dig(metadata, "annotations", name) or dig(metadata, "labels", name)
    return found
