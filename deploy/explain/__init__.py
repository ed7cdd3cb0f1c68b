"""Why something waits or has failed: objects and events become a reason and what to do.

Pure functions over plain dictionaries as the API returns them; nothing here calls a cluster.
"""

from deploy.explain.deployment import explain_deployment
from deploy.explain.job import explain_job
from deploy.explain.origin import explain_origin
from deploy.explain.refusal import explain_refusal
from deploy.explain.service import explain_service
from deploy.explain.snapshot import Explanation, Snapshot

__all__ = [
    "Explanation",
    "Snapshot",
    "explain",
    "explain_deployment",
    "explain_job",
    "explain_origin",
    "explain_refusal",
    "explain_service",
]


def explain(seen: Snapshot) -> Explanation | None:
    """Why the object waits or has failed; None if it is complete, runs or is ready."""
    known = {"Job": explain_job, "InferenceService": explain_service}
    return known.get(seen.item["kind"], explain_deployment)(seen)
