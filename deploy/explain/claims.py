"""Why a PersistentVolumeClaim is not bound."""

from __future__ import annotations

import re

from deploy.explain.snapshot import Explanation, Snapshot, message_of
from deploy.objects import Object, dig, name_of

# How provisioners report an access mode that they do not support. CSI drivers use the names of the
# CSI specification.
_ACCESS_MODE = re.compile(
    r"AccessModes|access.?modes?|MULTI_NODE|capability at index|volume capabilit", re.IGNORECASE
)


def explain_claim(claim: Object, seen: Snapshot) -> Explanation | None:
    """Why ``claim`` is not bound; None if it is."""
    phase = dig(claim, "status", "phase")
    name = name_of(claim)
    if phase == "Bound":
        return None
    if phase == "Lost":
        return Explanation(
            f"The volume of claim {name!r} was deleted, and the weights with it.",
            f"Delete the claim and deploy again: kubectl delete pvc {name}",
            fatal=True,
        )
    for event in seen.events_about(claim):
        if explanation := _explain_event(event, claim):
            return explanation
    return Explanation(f"Claim {name!r} waits for a volume.")


def _explain_event(event: Object, claim: Object) -> Explanation | None:
    name, message = name_of(claim), message_of(event)
    wanted = ", ".join(dig(claim, "spec", "accessModes") or ())
    match event.get("reason"):
        case "FailedBinding":
            return Explanation(
                f"Claim {name!r} has no volume: it names no storage class, and the cluster has no "
                "default one.",
                f"Name a class that supports {wanted} in `storageClassName` (`kubectl get "
                "storageclass`; chart value `storage.storageClassName`).",
            )
        case "ProvisioningFailed" if re.search(r"storageclass\S* \"?[^\"]+\"? not found", message):
            return Explanation(
                f"Claim {name!r} names a storage class that does not exist: {message}",
                "Choose one of `kubectl get storageclass` "
                "(chart value `storage.storageClassName`).",
            )
        case "ProvisioningFailed" if _ACCESS_MODE.search(message):
            return Explanation(
                f"The storage class of claim {name!r} does not support {wanted}: {message}",
                "Name a file storage class (NFS, CephFS, EFS, Filestore, Azure Files) in "
                "`storageClassName`, or use ReadWriteOnce and one node. Delete the claim "
                f"first: kubectl delete pvc {name}",
            )
        case "ProvisioningFailed":
            return Explanation(f"No volume can be created for claim {name!r}: {message}")
        case "WaitForFirstConsumer":
            return Explanation(
                f"Claim {name!r} is bound once the first pod that uses it has a node "
                "(WaitForFirstConsumer)."
            )
        case "ExternalProvisioning":
            return Explanation(f"Claim {name!r} waits for its provisioner: {message}")
    return None
