"""Why a pod does not run: scheduling, image, configuration, volumes, crashes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from deploy.explain.claims import explain_claim
from deploy.explain.crash import STORAGE_INITIALIZER, crash_advice, memory_advice
from deploy.explain.probes import explain_probe, explain_restart
from deploy.explain.snapshot import Explanation, Snapshot, condition, message_of
from deploy.objects import Object, dig, name_of
from deploy.workload import MODEL_CONTAINER, QUEUE_PROXY, is_ours

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIGURATION = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_UNREADY_WHILE_LOADING = {MODEL_CONTAINER, QUEUE_PROXY}
_OUT_OF_MEMORY = "OOMKilled"
# The exit codes of SIGKILL and SIGTERM.
_KILLED = (137, 143)
# Why preempting other pods would not help either, which does not say what is missing
# (k8s.io/kubernetes, pkg/scheduler/framework/plugins: dynamicresources, defaultpreemption).
_AFTERTHOUGHT = re.compile(
    r"\s*(?:no new claims to deallocate|still not schedulable|preemption:).*", re.DOTALL
)


def explain_pods(seen: Snapshot) -> Explanation | None:
    """The first reason of any pod; None if all are ready."""
    for pod in seen.pods:
        if dig(pod, "metadata", "deletionTimestamp"):
            continue
        if explanation := explain_pod(pod, seen):
            return explanation
    return None


def explain_pod(pod: Object, seen: Snapshot) -> Explanation | None:
    """Why ``pod`` is not ready; None if it is, or has ended."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _explain_scheduling(pod, str(scheduled.get("message") or ""), seen)
    if dig(pod, "status", "reason") == "Evicted":
        return Explanation(
            f"The kubelet evicted pod {name_of(pod)}: {message_of(pod['status']) or 'no message'}",
            "Raise the request of what ran out (`memory`, `ephemeral-storage`), or use larger "
            "nodes.",
        )
    statuses = list(_statuses(pod))
    for status in statuses:
        if explanation := _explain_waiting(pod, status, seen) or _explain_crash(pod, status, seen):
            return explanation
    return _explain_volume(pod, seen) or _explain_start(pod, statuses, seen)


def last_termination(pod: Object) -> tuple[str, Object] | None:
    """The first container that failed, with its `terminated` state."""
    for status in _statuses(pod):
        for state in ("state", "lastState"):
            terminated = dig(status, state, "terminated")
            if terminated and terminated.get("exitCode"):
                return str(status["name"]), terminated
    return None


def _statuses(pod: Object) -> Iterator[Object]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from dig(pod, "status", kind) or ()


def _explain_scheduling(pod: Object, message: str, seen: Snapshot) -> Explanation:
    name = name_of(pod)
    events = {str(event.get("reason")) for event in seen.events_about(pod)}
    if "TriggeredScaleUp" in events:
        return Explanation(f"Pod {name} waits for a node that the cluster autoscaler is starting.")
    if "unbound immediate PersistentVolumeClaims" in message or "persistentvolumeclaim" in message:
        for claim in seen.claims:
            if explanation := explain_claim(claim, seen):
                return explanation
    advice = list(_scheduling_advice(message))
    if "NotTriggerScaleUp" in events and any("nodes" in line for line in advice):
        advice.append("The cluster autoscaler has no suitable node group.")
    reason = _AFTERTHOUGHT.split(message)[0]
    return Explanation(f"No node can take pod {name}: {reason}", " ".join(advice))


def _scheduling_advice(message: str) -> Iterator[str]:
    missing = dict.fromkeys(re.findall(r"Insufficient ([\w./-]+\w)", message))
    for resource in missing:
        if "/" in resource:
            yield (
                f"No node has a free {resource}: start a GPU node, install its device plugin, or "
                f"see which pods use it: kubectl describe nodes | grep {resource}"
            )
        else:
            yield f"No node has enough free {resource}: lower the pod's requests or add nodes."
    for taint in dict.fromkeys(re.findall(r"taint \{([^}]*)\}", message)):
        yield (
            f"A node is tainted {taint.rstrip(': ')}: if it is meant for this pod, add a "
            "toleration (on Knative this needs kubernetes.podspec-tolerations)."
        )
    if "node affinity/selector" in message or "node selector" in message:
        yield "Compare the pod's nodeSelector and affinity with `kubectl get nodes --show-labels`."
    if "volume node affinity conflict" in message:
        yield "The volume is in another zone than the nodes. A ReadWriteMany volume avoids this."
    if "available persistent volumes to bind" in message:
        yield "No volume matches the claim: see `kubectl describe pvc`."
    if missed := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        yield f"Create the claim {missed[1]!r}, or name an existing one."


def _explain_waiting(pod: Object, status: Object, seen: Snapshot) -> Explanation | None:
    waiting = dig(status, "state", "waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if reason in _IMAGE:
        return _explain_image(pod, status, message, seen)
    if reason in _CONFIGURATION:
        return Explanation(
            f"Container {status['name']} of pod {name_of(pod)} cannot be created: "
            f"{message or reason}",
            _configuration_advice(message),
        )
    return None


def _configuration_advice(message: str) -> str:
    if missing := re.search(r'secret "([^"]+)" not found', message):
        return f"Create the secret: kubectl create secret generic {missing[1]} --from-file=token=…"
    if re.search(r"runAsNonRoot|non-root", message):
        return (
            "The image runs as root. Set `runAsUser`, or use an image with another user, as our "
            "Dockerfile builds it."
        )
    if missing := re.search(r'configmap "([^"]+)" not found', message):
        return f"Create the ConfigMap {missing[1]}, or correct the name in the container."
    if missing := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", message):
        return f"Add the key {missing[1]!r} to the {missing[2]} {missing[3]}."
    return crash_advice("", {"message": message})


def _explain_image(pod: Object, status: Object, message: str, seen: Snapshot) -> Explanation:
    pulls = [
        str(event.get("message"))
        for event in seen.events_about(pod)
        if str(event.get("message")).startswith("Failed to pull image")
    ]
    # The kubelet alternates between the cause and "Back-off pulling image".
    cause = message if "rpc error" in message or not pulls else pulls[0]
    image = status.get("image") or "?"
    if re.search(r"not found|manifest unknown|NotFound", cause):
        advice = "Push the image, or correct its name and tag in the manifests."
    elif re.search(r"unauthorized|authoriz|denied|401|403", cause, re.IGNORECASE):
        advice = "Create a pull secret and name it in imagePullSecrets, or make the image public."
    elif re.search(r"timeout|no such host|connection refused|dial tcp", cause):
        advice = "The node cannot reach the registry: check its network, DNS and proxy."
    elif "/" not in str(image):
        advice = "The name has no registry: push the image and use its full name."
    else:
        advice = "Pull the image by hand on a node, and check imagePullSecrets."
    return Explanation(f"The image {image} of pod {name_of(pod)} cannot be pulled: {cause}", advice)


def _explain_crash(pod: Object, status: Object, seen: Snapshot) -> Explanation | None:
    ended = dig(status, "lastState", "terminated") or dig(status, "state", "terminated") or {}
    if status.get("ready") or not ended.get("exitCode"):
        return None
    said = str(ended.get("message") or "").strip()
    name, container = name_of(pod), status["name"]
    if ended.get("reason") == _OUT_OF_MEMORY:
        return Explanation(
            f"Container {container} of pod {name} exceeded its memory limit (OOMKilled).",
            memory_advice(container),
        )
    if ended["exitCode"] in _KILLED and (killed := explain_restart(pod, container, seen)):
        return killed
    count = status.get("restartCount") or 0
    ended_how = f"has failed {count} times, last" if count > 1 else "failed"
    advice = crash_advice(container, ended)
    return Explanation(
        f"Container {container} of pod {name} {ended_how} with exit code {ended['exitCode']}"
        + (f": {_last_message(said)}" if said else "."),
        (f"{advice}\n" if advice else "")
        + f"Its log: kubectl logs {name} --container {container}"
        + (" --previous" if count else ""),
    )


def _last_message(said: str) -> str:
    """The last line of a log; its `message` if the log is JSON."""
    line = said.splitlines()[-1]
    try:
        document = json.loads(line)
    except ValueError:
        return line
    return str(document.get("message", line)) if isinstance(document, dict) else line


def _explain_volume(pod: Object, seen: Snapshot) -> Explanation | None:
    for event in seen.events_about(pod):
        message = message_of(event)
        if event.get("reason") not in ("FailedMount", "FailedAttachVolume"):
            continue
        if "Multi-Attach" in message:
            return Explanation(
                f"The volume of pod {name_of(pod)} is attached to another node: {message}",
                "A ReadWriteOnce volume works on one node: use ReadWriteMany, or one node for all.",
            )
        if dig(pod, "status", "phase") == "Pending":
            return Explanation(f"A volume of pod {name_of(pod)} cannot be mounted: {message}")
    return None


def _running_init_container(pod: Object) -> str:
    statuses = dig(pod, "status", "initContainerStatuses") or ()
    running = (str(one["name"]) for one in statuses if dig(one, "state", "running") is not None)
    return next(running, "")


def _explain_start(pod: Object, statuses: list[Object], seen: Snapshot) -> Explanation | None:
    name = name_of(pod)
    phase = dig(pod, "status", "phase")
    if phase == "Pending":
        if init := _running_init_container(pod):
            what = ", which downloads the model" if init == STORAGE_INITIALIZER else ""
            return Explanation(f"Pod {name} waits for its init container {init}{what}.")
        return Explanation(f"Pod {name} is starting on its node: the image is being pulled.")
    unready = {str(one["name"]): one for one in statuses if not one.get("ready")}
    if phase != "Running" or not unready:
        return None
    # Our predictor fails its probes for as long as it loads; what another does is unknown.
    if not is_ours(pod) and (failing := explain_probe(pod, seen)):
        return failing
    # Knative gives the predictor's readiness probe to queue-proxy, which is then the unready one.
    predictor = next((one for one in statuses if one["name"] == MODEL_CONTAINER), {})
    if "running" in (predictor.get("state") or {}) and unready.keys() & _UNREADY_WHILE_LOADING:
        return Explanation(f"Pod {name} runs; {MODEL_CONTAINER} is loading the weights.")
    return Explanation(f"Pod {name} runs; {', '.join(unready)} is not ready yet.")
