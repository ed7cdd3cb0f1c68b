"""Why an InferenceService is not ready: KServe's events, the rollout, the pods, the conditions."""

from __future__ import annotations

import re
from dataclasses import replace

from deploy.explain.claims import explain_claim
from deploy.explain.model_status import explain_load, explain_runtime
from deploy.explain.pods import explain_pods
from deploy.explain.refusal import explain_refusal
from deploy.explain.rollout import explain_creation, explain_deadline, latest_rollout
from deploy.explain.snapshot import Explanation, Snapshot, condition, event_mark, message_of
from deploy.objects import Object, dig, name_of

_COMPONENTS = ("predictor", "transformer", "explainer")
_STOP = "serving.kserve.io/stop"
_REFUSALS = ("InternalError", "ServerlessModeRejected", "UpdateFailed")


def explain_service(seen: Snapshot) -> Explanation | None:
    """Why the InferenceService is not ready; None if it is."""
    if is_ready(seen):
        return None
    component = _unready_component(seen.item)
    seen = latest_rollout(seen, component)
    return (
        _explain_stop(seen)
        or explain_runtime(seen.item)
        or _explain_controller(seen)
        or explain_deadline(seen)
        or explain_creation(seen)
        or explain_pods(seen)
        or _explain_claims(seen)
        or explain_load(seen.item)
        or _explain_conditions(seen, component)
        or _explain_silence(seen)
    )


def _unready_component(item: Object) -> str:
    """The first component of the service that is not ready; the predictor if all are."""
    spec = dig(item, "spec") or {}
    for name in _COMPONENTS:
        if name in spec and condition(item, f"{name.title()}Ready").get("status") != "True":
            return name
    return _COMPONENTS[0]


def is_ready(seen: Snapshot) -> bool:
    """Ready, and on Knative with its latest revision, not only a former one.

    `observedGeneration` does not help: KServe copies it from the Deployment or Knative Service.
    """
    predictor = dig(seen.item, "status", "components", "predictor") or {}
    latest = predictor.get("latestCreatedRevision")
    current = latest is None or latest == predictor.get("latestReadyRevision")
    return current and condition(seen.item, "Ready").get("status") == "True"


def _explain_stop(seen: Snapshot) -> Explanation | None:
    """KServe deletes the pods of a service with this annotation, and keeps the service."""
    if str(dig(seen.item, "metadata", "annotations", _STOP)).lower() != "true":
        return None
    return Explanation(
        f"The InferenceService is stopped by its annotation {_STOP}.",
        f"Start it: kubectl annotate isvc {name_of(seen.item)} {_STOP}-",
        fatal=True,
    )


def _explain_controller(seen: Snapshot) -> Explanation | None:
    """What KServe's controller could not do, which it reports only in events."""
    events = seen.events_about(seen.item)
    refused = next((one for one in events if one.get("type") == "Warning"), None)
    if seen.pods or refused is None or refused.get("reason") not in _REFUSALS:
        return None
    explanation = _explain_refused(str(refused["reason"]), message_of(refused))
    # KServe tries again only after minutes: the cause of an old event may be gone by now.
    is_old = event_mark(refused) in seen.known
    return replace(explanation, fatal=False) if is_old else explanation


def _explain_refused(reason: str, message: str) -> Explanation:
    if reason == "ServerlessModeRejected" or "Knative Serving is not available" in message:
        return Explanation(
            "The InferenceService asks for Knative mode, but Knative Serving is not installed.",
            "Install Knative Serving, or deploy in Standard mode (chart value "
            "`predictor.deploymentMode=Standard`).",
            fatal=True,
        )
    return explain_refusal(message) or Explanation(f"KServe cannot create the predictor: {message}")


def _explain_claims(seen: Snapshot) -> Explanation | None:
    return next((found for one in seen.claims if (found := explain_claim(one, seen))), None)


def _explain_conditions(seen: Snapshot, component: str) -> Explanation | None:
    predictor = condition(seen.item, f"{component.title()}Ready")
    message = message_of(predictor)
    if predictor.get("status") == "False" and message:
        said = re.sub(r"^Revision \S+ failed with message: ", "", message)
        return (
            explain_refusal(message)
            or _explain_image_digest(message)
            or Explanation(f"The {component} is not ready: {said or message}")
        )
    ingress = condition(seen.item, "IngressReady")
    if predictor.get("status") == "True" and ingress.get("status") != "True":
        why = message_of(ingress) or ingress.get("reason") or "no message"
        return Explanation(
            f"The {component} is ready, but its address is not ready yet ({why}).",
            "If this lasts, check the ingress or gateway that KServe is configured to use.",
        )
    if message or predictor.get("reason"):
        return Explanation(f"The {component} is being created: {message or predictor['reason']}")
    return None


def _explain_image_digest(message: str) -> Explanation | None:
    """Knative's controller resolves the tag itself, before there is a pod."""
    found = re.search(r'Unable to fetch image "([^"]+)": (.+)', message, re.DOTALL)
    if not found:
        return None
    return Explanation(
        f"Knative cannot resolve the image {found[1]}: {found[2].strip()}",
        "Push the image and correct its name. For a private registry, name a pull secret in "
        "imagePullSecrets. If only nodes can reach the registry, add its host to "
        "`registries-skipping-tag-resolving` in knative-serving/config-deployment.",
    )


def _explain_silence(seen: Snapshot) -> Explanation:
    if not dig(seen.item, "status", "conditions"):
        return Explanation(
            "KServe's controller has not processed the InferenceService yet.",
            "If this lasts: kubectl get pods --all-namespaces "
            "--selector control-plane=kserve-controller-manager",
        )
    return Explanation("The predictor has no pod yet.")
