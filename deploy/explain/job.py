"""Why the download waits or has failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from deploy.explain.claims import explain_claim
from deploy.explain.pods import explain_pods, last_termination
from deploy.explain.refusal import explain_refusal
from deploy.explain.snapshot import Explanation, Snapshot, condition, event_mark, message_of
from deploy.objects import Object, dig, name_of

# The downloader's exit codes, each with its meaning and what the operator does about it.
DOWNLOADER_EXIT_CODES: Mapping[int, tuple[str, str]] = {
    2: ("a wrong spec or setting", "Correct the Job's environment or spec."),
    3: (
        "the source refuses access: the model is gated, or the token is missing or wrong",
        "Accept the model's terms on its page with the account of the token, put the token "
        "into the Secret that the Job reads, then run `up` again.",
    ),
    4: ("the repository, revision or folder does not exist", "Correct the source in the Job."),
    5: ("the volume is full", "Enlarge the claim, or delete models that are not in use."),
    6: (
        "a file stays corrupt after retries",
        "Run `up` again. If it stays corrupt, check the mirror and the volume.",
    ),
    7: (
        "the network failed",
        "Check DNS, proxy and NetworkPolicy of the namespace, then run `up` again: it resumes.",
    ),
    8: (
        "the model cannot be served: it has no pipeline or no safetensors",
        "Choose a repository or revision that has safetensors.",
    ),
    9: ("it was interrupted", "Run `up` again: it resumes."),
    10: (
        "the Job's user has no permission on the volume",
        "Delete the InferenceService and any other pod that mounts the claim, then run `up` again; "
        "or give the volume's files to the Job's group.",
    ),
}


def explain_job(seen: Snapshot) -> Explanation | None:
    """Why the Job waits or has failed; None if it is complete or runs."""
    if condition(seen.item, "Complete").get("status") == "True":
        return None
    failed = condition(seen.item, "Failed")
    if failed.get("status") == "True":
        return _explain_failure(seen, failed)
    # An event stays for an hour: once there is a pod, it is outdated.
    if not seen.pods:
        for event in seen.events_about(seen.item):
            if event.get("reason") == "FailedCreate":
                return _explain_refused(event, seen)
        for claim in seen.claims:
            if explanation := explain_claim(claim, seen):
                return explanation
    return _explain_retry(seen) or explain_pods(seen)


def _explain_refused(event: Object, seen: Snapshot) -> Explanation:
    message = message_of(event)
    explanation = explain_refusal(message) or Explanation(f"The Job has no pod: {message}")
    # The Job controller tries again only after a while: the cause may be gone by now.
    is_old = event_mark(event) in seen.known
    return replace(explanation, fatal=False) if is_old else explanation


def _explain_retry(seen: Snapshot) -> Explanation | None:
    """The newest pod failed, and the Job retries."""
    newest = seen.pods[0] if seen.pods else {}
    ended = last_termination(newest)
    if dig(newest, "status", "phase") != "Failed" or ended is None:
        return None
    code, said = int(ended[1]["exitCode"]), str(ended[1].get("message") or "").strip()
    reason = (
        DOWNLOADER_EXIT_CODES[code][0] if code in DOWNLOADER_EXIT_CODES else f"exit code {code}"
    )
    return Explanation(
        f"An attempt to download failed: {reason}.{f' Its message: {said}' if said else ''}",
        "Kubernetes retries with growing pauses, and the download resumes.",
    )


def _explain_failure(seen: Snapshot, failed: Object) -> Explanation:
    name = name_of(seen.item)
    code, said = _termination(seen, str(failed.get("message") or ""))
    if failed.get("reason") == "DeadlineExceeded":
        reason, advice = (
            "it took longer than activeDeadlineSeconds",
            "Raise it, then run `up` again: it resumes.",
        )
    elif code is not None and code in DOWNLOADER_EXIT_CODES:
        reason, advice = DOWNLOADER_EXIT_CODES[code]
    else:
        reason = f"exit code {code}" if code else str(failed.get("message") or failed.get("reason"))
        advice = f"Its log: kubectl logs job/{name}"
    message = f" Its message: {said}" if said else ""
    number = f" (exit code {code})" if code in DOWNLOADER_EXIT_CODES else ""
    return Explanation(f"The download failed: {reason}{number}.{message}", advice, fatal=True)


def _termination(seen: Snapshot, message: str) -> tuple[int | None, str]:
    for pod in seen.pods:
        if ended := last_termination(pod):
            return int(ended[1]["exitCode"]), str(ended[1].get("message") or "").strip()
    # Once the pods are deleted, the Job's condition still has the code that a rule matched.
    named = re.search(r"exit code (\d+)", message)
    return (int(named[1]) if named else None), ""
