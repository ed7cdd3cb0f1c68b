"""What to do about a container that ended, by what it said last: any image, not only ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploy.objects import Object

# KServe's init container that downloads a model (kserve/kserve, python/storage).
STORAGE_INITIALIZER = "storage-initializer"
_STORAGE = "https://kserve.github.io/website/docs/model-serving/storage/overview"
# Of a log; what comes before them is rarely about the end.
_LINES = 5
_Hints = Sequence[tuple[str, str]]
# The storage initializer ends with the exception of the storage's client.
_STORAGE_HINTS: _Hints = (
    (
        r"access.?denied|forbidden|unauthorized|no.?credentials|locate credentials|\bgated\b"
        r"|InvalidAccessKeyId|SignatureDoesNotMatch|\b40[13]\b",
        "The storage refuses access. Give the service's ServiceAccount a secret with credentials "
        f"for it: {_STORAGE}",
    ),
    (
        r"no space left|disk quota",
        "The node's disk is too small for the model. Set `ephemeral-storage` in the resources, or "
        "serve the model from a claim (`pvc://`).",
    ),
    (
        r"certificate|SSL",
        "The certificate of the storage is not trusted. An administrator can name a ConfigMap "
        "with the CA in `caBundleConfigMapName` (key `storageInitializer` of "
        "kserve/inferenceservice-config).",
    ),
    (
        r"name or service not known|name resolution|getaddrinfo|timed? ?out|connection refused"
        r"|unreachable|EndpointConnectionError",
        "The pod does not reach the storage: check DNS, proxy and NetworkPolicy of the namespace.",
    ),
    (
        r"does not exist|not found|NoSuch|no such|\b404\b|cannot recognize storage type",
        f"Correct `storageUri`: nothing is there, or KServe does not know its scheme ({_STORAGE}).",
    ),
)
_HINTS: _Hints = (
    (
        r"exec format error",
        "The image is for another CPU architecture than the node's. Build it for that one, or "
        "select nodes by the label kubernetes.io/arch.",
    ),
    (
        r"executable file not found|no such file or directory: unknown|stat .*: no such file",
        "The image has no such program: correct `command` of the container.",
    ),
    (
        r"unrecognized arguments|unknown (?:flag|option|argument)|no such option",
        "The program in the image does not know these `args`. KServe passes them unchanged.",
    ),
    (
        r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError",
        "The model does not fit into the GPU's memory: use a larger GPU, a smaller model or batch, "
        "or a lower precision.",
    ),
    (
        r"CUDA driver version is insufficient|no NVIDIA driver|libcuda\.so|no kernel image is",
        "The image's CUDA does not fit the node's driver or GPU, or the pod has no GPU: request "
        "one in `resources.limits`, and compare the driver (`nvidia-smi`) with the image.",
    ),
    (
        r"read-only file system",
        "The container may not write there: mount an emptyDir at that path, or point the program's "
        "cache (HF_HOME, XDG_CACHE_HOME) to one.",
    ),
    (
        r"permission denied",
        "The container's user may not read or write there: set `fsGroup`, or `runAsUser` to the "
        "owner of the files.",
    ),
    (
        r"/mnt/models\b.*(?:no such|not found|does not exist)"
        r"|(?:no such|not found|does not exist).*/mnt/models\b",
        "KServe mounts a model at /mnt/models only if `storageUri`, or the variable STORAGE_URI of "
        "a custom container, names one.",
    ),
)


def crash_advice(container: str, ended: Object) -> str:
    """What to do about a `terminated` state; empty for one that only its log explains."""
    said = "\n".join(str(ended.get("message") or "").splitlines()[-_LINES:])
    hints = _STORAGE_HINTS if container == STORAGE_INITIALIZER else _HINTS
    for pattern, advice in hints:
        if re.search(pattern, said, re.IGNORECASE):
            return advice
    return ""


def memory_advice(container: str) -> str:
    """What to do about a container that exceeded its memory limit."""
    if container == STORAGE_INITIALIZER:
        return (
            "An administrator can raise `memoryLimit` (key `storageInitializer` of "
            "kserve/inferenceservice-config, 1Gi by default)."
        )
    return "Raise resources.limits.memory. Loading needs about twice the size of the weights."
