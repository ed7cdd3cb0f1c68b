"""Why something waits or has failed: objects and events become a reason and what to do.

Pure functions over plain dictionaries as the API returns them; nothing here calls a cluster.
"""

from deploy.explain.job import explain_job
from deploy.explain.origin import explain_origin
from deploy.explain.refusal import explain_refusal
from deploy.explain.service import explain_service
from deploy.explain.snapshot import Explanation, Snapshot

__all__ = [
    "Explanation",
    "Snapshot",
    "explain_job",
    "explain_origin",
    "explain_refusal",
    "explain_service",
]
