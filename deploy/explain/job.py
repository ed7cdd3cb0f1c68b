"""Why the download does not go on, and why it failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from deploy.explain.claims import explain_claim
from deploy.explain.pods import explain_pods, last_termination
from deploy.explain.refusal import explain_refusal
from deploy.explain.snapshot import Explanation, Snapshot, condition, event_mark, message_of
from deploy.objects import Object, dig, name_of

# The downloader's exit codes (see its documentation) and what the operator does about each.
DOWNLOADER_EXIT_CODES: Mapping[int, tuple[str, str]] = {
    2: ("a wrong spec or setting", "Correct the Job's environment or spec."),
    3: (
        "the source does not authorise it: the model is gated, or the token is missing or wrong",
        "Accept the model's terms on its page with the token's account, put the token into the "
        "Secret that the Job reads, then run this again.",
    ),
    4: ("the repository, revision or folder does not exist", "Correct the source in the Job."),
    5: ("the volume is full", "Enlarge the claim, or delete models that nobody serves."),
    6: ("a file stays corrupt after retries", "Try again; then suspect the mirror or the volume."),
    7: (
        "the network gave up",
        "Look at DNS, proxy and NetworkPolicy of the namespace, then run this again: it resumes.",
    ),
    8: (
        "the model is unsuitable: no pipeline, or no safetensors",
        "Choose a repository or revision that has safetensors.",
    ),
    9: ("it was interrupted", "Run this again: it resumes."),
}


def explain_job(seen: Snapshot) -> Explanation | None:
    """Why the Job has failed or does not go on; None where it is complete or at work."""
    if condition(seen.item, "Complete").get("status") == "True":
        return None
    failed = condition(seen.item, "Failed")
    if failed.get("status") == "True":
        return _explain_failure(seen, failed)
    # An event stays for an hour; once there is a pod, why there was none is history.
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
    """The newest pod failed, and the Job's policy lets another follow."""
    newest = seen.pods[0] if seen.pods else {}
    ended = last_termination(newest)
    if dig(newest, "status", "phase") != "Failed" or ended is None:
        return None
    code, said = int(ended[1]["exitCode"]), str(ended[1].get("message") or "").strip()
    reason = (
        DOWNLOADER_EXIT_CODES[code][0] if code in DOWNLOADER_EXIT_CODES else f"exit code {code}"
    )
    return Explanation(
        f"A try of the download failed: {reason}.{f' It said: {said}' if said else ''}",
        "Kubernetes tries it again, a little later each time; it resumes.",
    )


def _explain_failure(seen: Snapshot, failed: Object) -> Explanation:
    name = name_of(seen.item)
    code, said = _termination(seen, str(failed.get("message") or ""))
    if failed.get("reason") == "DeadlineExceeded":
        reason, advice = (
            "it took longer than activeDeadlineSeconds",
            "Raise it, then run this again: it resumes.",
        )
    elif code is not None and code in DOWNLOADER_EXIT_CODES:
        reason, advice = DOWNLOADER_EXIT_CODES[code]
    else:
        reason = f"exit code {code}" if code else str(failed.get("message") or failed.get("reason"))
        advice = f"Its log: kubectl logs job/{name}"
    told = f" It said: {said}" if said else ""
    code_told = f" (exit code {code})" if code in DOWNLOADER_EXIT_CODES else ""
    return Explanation(f"The download failed: {reason}{code_told}.{told}", advice, fatal=True)


def _termination(seen: Snapshot, message: str) -> tuple[int | None, str]:
    for pod in seen.pods:
        if ended := last_termination(pod):
            return int(ended[1]["exitCode"]), str(ended[1].get("message") or "").strip()
    # The pods may be gone; the Job's condition keeps the code where a rule matched it.
    named = re.search(r"exit code (\d+)", message)
    return (int(named[1]) if named else None), ""
