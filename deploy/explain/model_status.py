"""Why KServe chose no runtime, or its runtime did not load the model: `status.modelStatus`.

Only services with the `model` form have a runtime
(kserve/kserve, pkg/apis/serving/v1beta1/inference_service_status.go).
"""

from __future__ import annotations

from deploy.explain.snapshot import Explanation
from deploy.objects import Object, dig

_RUNTIMES = "kubectl get servingruntimes,clusterservingruntimes"
_SPEC_ADVICE = {
    "NoSupportingRuntime": "Install a ServingRuntime that lists the model format and this "
    f"protocol, or name one in `model.runtime`: {_RUNTIMES}",
    "RuntimeNotRecognized": f"Correct `model.runtime`, or install that runtime: {_RUNTIMES}",
    "RuntimeDisabled": f"Enable the runtime, or name another in `model.runtime`: {_RUNTIMES}",
    "InvalidPredictorSpec": "Correct the predictor's spec: kubectl explain isvc.spec.predictor",
}


def explain_runtime(item: Object) -> Explanation | None:
    """Why the spec fits no runtime; KServe then creates no pods."""
    info = dig(item, "status", "modelStatus", "lastFailureInfo") or {}
    advice = _SPEC_ADVICE.get(str(info.get("reason")))
    if advice is None or dig(item, "status", "modelStatus", "transitionStatus") != "InvalidSpec":
        return None
    wanted = dig(item, "spec", "predictor", "model", "modelFormat", "name")
    model = f" for the model format {wanted!r}" if wanted else ""
    said = str(info.get("message") or info["reason"]).strip().rstrip(".")
    return Explanation(f"KServe has no runtime{model}: {said}.", advice, fatal=True)


def explain_load(item: Object) -> Explanation | None:
    """What KServe recorded of a load that failed, after the pod that failed is gone."""
    status = dig(item, "status", "modelStatus") or {}
    info = status.get("lastFailureInfo") or {}
    said = str(info.get("message") or "").strip()
    if status.get("transitionStatus") != "BlockedByFailedLoad" or not said:
        return None
    code = f" (exit code {info['exitCode']})" if info.get("exitCode") else ""
    where = f" in {info['location']}" if info.get("location") else ""
    return Explanation(
        f"The model did not load{where}{code}: {said.splitlines()[-1]}",
        "The log of the container has the cause, as long as its pod exists: kubectl logs "
        "--previous POD",
    )
