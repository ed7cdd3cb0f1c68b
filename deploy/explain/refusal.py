"""Why an API server, a webhook or a controller refuses an object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from deploy.explain.snapshot import Explanation

# The field within `spec.template.spec` that Knative's webhook names, and the flag that admits it
# (knative/serving, pkg/apis/serving/fieldmask.go and pkg/apis/config/features.go).
FLAG_OF_FIELD: Mapping[str, str] = {
    "affinity": "kubernetes.podspec-affinity",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "hostPID": "kubernetes.podspec-hostpid",
    "initContainers": "kubernetes.podspec-init-containers",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "securityContext": "kubernetes.podspec-securitycontext",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
}
PVC_FLAG = "kubernetes.podspec-persistent-volume-claim"
PVC_WRITE_FLAG = "kubernetes.podspec-persistent-volume-write"
EMPTY_DIR_FLAG = "kubernetes.podspec-volumes-emptydir"
# The kinds of volumes that a flag of their own admits.
FLAG_OF_VOLUME: Mapping[str, str] = {
    kind: f"kubernetes.podspec-volumes-{kind.lower()}"
    for kind in ("csi", "ephemeral", "hostPath", "image")
}
FIELD_REF_FLAG = "kubernetes.podspec-fieldref"
_FLAG_OF_SENTENCE = {
    "Persistent volume claim support is disabled": PVC_FLAG,
    "Persistent volume write support is disabled": PVC_WRITE_FLAG,
    "EmptyDir volume support is disabled": EMPTY_DIR_FLAG,
    "pod spec support for init-containers is off": FLAG_OF_FIELD["initContainers"],
}


def explain_refusal(message: str) -> Explanation | None:
    """Explain a known refusal; None for any other."""
    return (
        _feature_flag(message)
        or _resources(message)
        or _quota(message)
        or _limit_range(message)
        or _pod_security(message)
        or _webhook_down(message)
        or _unknown_kind(message)
        or _no_namespace(message)
        or _invalid(message)
    )


def feature_patch(flags: Iterable[str]) -> str:
    """The command that enables Knative features."""
    data = json.dumps({"data": dict.fromkeys(sorted(flags), "enabled")}, separators=(",", ":"))
    return (
        "kubectl --namespace knative-serving patch configmap config-features "
        f"--type merge --patch '{data}'"
    )


def _feature_flag(message: str) -> Explanation | None:
    flags = {flag for sentence, flag in _FLAG_OF_SENTENCE.items() if sentence in message}
    for field in re.findall(r"spec\.template\.spec\.([\w.\[\]]+)", message):
        volume = re.fullmatch(r"volumes\[\d+\]\.(\w+)", field)
        if field.endswith(("valueFrom.fieldRef", "valueFrom.resourceFieldRef")):
            flags.add(FIELD_REF_FLAG)
        elif "must not set the field" in message and field in FLAG_OF_FIELD:
            flags.add(FLAG_OF_FIELD[field])
        elif volume and volume[1] in FLAG_OF_VOLUME:
            flags.add(FLAG_OF_VOLUME[volume[1]])
    if not flags:
        return None
    return Explanation(
        f"Knative refuses the InferenceService: {', '.join(sorted(flags))} is not enabled.",
        "An administrator can enable it (KServe then retries by itself, within minutes): "
        f"{feature_patch(flags)}",
        fatal=True,
    )


def _resources(message: str) -> Explanation | None:
    exceeded = re.findall(
        r"(?P<container>[cC]ontainers\[\d+\])\.resources\.requests: Invalid value: "
        r"\"(?P<asked>[^\"]+)\": must be less than or equal to (?P<name>\S+) limit"
        r"(?: of (?P<limit>[\w.]+))?",
        message,
    )
    if not exceeded:
        return None
    sentences = dict.fromkeys(
        f"{container} requests {asked} of {name}, more than its limit"
        + (f" of {limit}." if limit else ".")
        for container, asked, name, limit in exceeded
    )
    fields = dict.fromkeys(f"`resources.limits.{name}`" for _, _, name, _ in exceeded)
    return Explanation(
        f"The pod is refused: {' '.join(sentences)}",
        f"Set {' and '.join(fields)} to at least the request (chart value "
        "`predictor.resources`). Where a container sets no limit, KServe sets the one of "
        "`inferenceservice-config` (key `inferenceService`), which is 1 CPU and 2Gi by default.",
        fatal=True,
    )


def _quota(message: str) -> Explanation | None:
    exceeded = re.search(
        r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.+?), used: (?P<used>.+?), "
        r"limited: (?P<limit>[^;\n]+)",
        message,
    )
    if exceeded:
        return Explanation(
            f"The quota {exceeded['name']!r} is exceeded: requested {exceeded['asked']}, "
            f"used {exceeded['used']}, allowed {exceeded['limit'].rstrip('. ')}.",
            "Delete what uses it, lower the requests, or ask for a larger ResourceQuota.",
        )
    unset = re.search(r"failed quota: (?P<name>[^:]+): must specify (?P<what>\S.*)", message)
    if unset:
        return Explanation(
            f"The quota {unset['name']!r} refuses pods that do not set {unset['what']}.",
            "Set it in the resources of every container (for queue-proxy the chart value "
            "`predictor.queueProxyResources`), or in a LimitRange with defaults in the namespace.",
            fatal=True,
        )
    return None


def _limit_range(message: str) -> Explanation | None:
    broken = re.findall(
        r"((?:minimum|maximum) \S+ usage per (?:Container|Pod) is \w+"
        r"(?:, but (?:limit|request) is \w+|\.\s+No (?:limit|request) is specified)?)",
        message,
    )
    if not broken:
        return None
    return Explanation(
        f"A LimitRange of the namespace refuses the pod: {'; '.join(broken)}.",
        "Change the resources of the container that it names, or the LimitRange: "
        "kubectl describe limitrange",
        fatal=True,
    )


def _pod_security(message: str) -> Explanation | None:
    violated = re.search(r'violates PodSecurity "([^"]+)": (.+)', message, re.DOTALL)
    if not violated:
        return None
    return Explanation(
        f"Pod Security {violated[1]!r} forbids the pod: {violated[2].strip()}.",
        "Our pods comply with `restricted`. If a sidecar does not, disable its injection here.",
        fatal=True,
    )


def _webhook_down(message: str) -> Explanation | None:
    called = re.search(r'failed calling webhook "([^"]+)"', message)
    if not called:
        return None
    whose = "Knative" if "knative" in called[1] else "KServe" if "kserve" in called[1] else "its"
    return Explanation(
        f"The webhook {called[1]} does not answer: {whose} controller is down or starting.",
        "Check it: kubectl get pods --all-namespaces | grep -E 'kserve|knative'",
    )


def _unknown_kind(message: str) -> Explanation | None:
    unknown = re.search(r"no matches for kind ['\"](\w+)['\"] in version ['\"](\S+?)['\"]", message)
    if not unknown:
        return None
    kind, version = unknown[1], unknown[2]
    if version.startswith("gateway.networking.k8s.io/"):
        return Explanation(
            f"The Gateway API is not installed: the cluster does not know {kind} of {version}.",
            "Install its CRDs and a Gateway controller (https://gateway-api.sigs.k8s.io/guides/), "
            "or do without the route (chart value predictor.route.enabled=false).",
            fatal=True,
        )
    if version.startswith("keda.sh/"):
        return Explanation(
            f"KEDA is not installed: the cluster does not know {kind} of {version}.",
            "Install it (https://keda.sh/docs/latest/deploy/), or do without it (chart value "
            "jobs.keda.enabled=false).",
            fatal=True,
        )
    if kind == "InferenceService":
        return Explanation(
            "KServe is not installed: the cluster does not know InferenceService.",
            "Install it: https://kserve.github.io/website/docs/admin-guide/overview",
            fatal=True,
        )
    return Explanation(
        f"The cluster does not know {kind} of {version}.",
        f"Install its CRD, or remove the {kind} from the folder.",
        fatal=True,
    )


def _no_namespace(message: str) -> Explanation | None:
    missing = re.search(r'namespaces "([^"]+)" not found', message)
    if not missing:
        return None
    return Explanation(
        f"Namespace {missing[1]!r} does not exist.",
        f"Create it: kubectl create namespace {missing[1]}",
        fatal=True,
    )


def _invalid(message: str) -> Explanation | None:
    """Any other refusal of the object's content, which the same content would meet again."""
    denied = re.search(r'admission webhook "([^"]+)" denied the request: (.+)', message, re.DOTALL)
    invalid = re.search(r'[\w.]+ "[^"]+" is invalid: (.+)', message, re.DOTALL)
    if not denied and not invalid:
        return None
    said = denied[2] if denied else invalid[1] if invalid else ""
    whose = f"The webhook {denied[1]}" if denied else "The API server"
    return Explanation(
        f"{whose} refuses the object: {said.strip()}",
        "Correct the field that it names in the manifests (or chart values), then run `up` again.",
        fatal=True,
    )
