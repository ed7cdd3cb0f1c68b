"""The warnings at the end of the notes."""

from __future__ import annotations

import pytest

from .rendering import CASES, Object, case, render
from .test_chart_values import CLAIM, STANDARD, TWO, with_value

ONCE: Object = {"storage": {"accessModes": ["ReadWriteOnce"]}}
GPUS = "predictor.resources.limits"


def warnings(values: Object) -> str:
    """The warnings as one line."""
    return " ".join(render(values).notes.partition("\nWarnings:\n")[2].split())


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        (
            {"predictor": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "a"}]}},
            "Knative rejects stable-diffusion unless an administrator enables these flags in the "
            "ConfigMap config-features (docs/operations.md): kubernetes.podspec-nodeselector, "
            "kubernetes.podspec-tolerations",
        ),
        (
            {
                "predictor": {
                    "volumes": [{"name": "own", "csi": {"driver": "secrets-store.csi.k8s.io"}}],
                    "volumeMounts": [{"name": "own", "mountPath": "/own"}],
                }
            },
            "kubernetes.podspec-volumes-csi",
        ),
        (
            {
                "predictor": {
                    "env": [
                        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
                    ]
                }
            },
            "kubernetes.podspec-fieldref",
        ),
        (
            {"predictor": {"timeoutSeconds": 601}},
            "predictor.timeoutSeconds is 601. Knative rejects stable-diffusion unless",
        ),
        (
            with_value({}, GPUS, {"nvidia.com/gpu": 2}),
            "Each pod of stable-diffusion gets 2 GPUs, and the predictor uses only one of them.",
        ),
        (
            with_value({}, GPUS, {"nvidia.com/gpu": 1, "nvidia.com/mig-1g.10gb": 1}),
            "gets 2 GPUs",
        ),
        (
            with_value(STANDARD, "predictor.resourceClaims", [CLAIM]),
            "gets a GPU from predictor.resources.limits in addition to its resourceClaims.",
        ),
        (
            {**ONCE, "predictor": {"scaling": {"maxReplicas": 3}}},
            "The claim is ReadWriteOnce, and up to 3 predictors use it.",
        ),
        ({**ONCE, "models": TWO}, "The claim is ReadWriteOnce, and up to 2 predictors use it."),
    ],
)
def test_the_notes_warn(values: Object, warning: str) -> None:
    assert warning in warnings(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        ONCE,
        {"predictor": {"scaling": {"maxReplicas": 3}}},
        {"predictor": {"timeoutSeconds": 600}},
        with_value(STANDARD, "predictor.timeoutSeconds", 900),
        with_value(STANDARD, "predictor.nodeSelector", {"a": "b"}),
        with_value({}, GPUS, {"nvidia.com/gpu": None, "nvidia.com/mig-1g.10gb": 1}),
        {
            **ONCE,
            "predictor": {"scaling": {"maxReplicas": 3}},
            "storage": {"existingClaim": "team", "accessModes": ["ReadWriteOnce"]},
        },
    ],
    ids=str,
)
def test_the_notes_do_not_warn_without_a_reason(values: Object) -> None:
    assert "Warnings" not in render(values).notes


@pytest.mark.parametrize("name", sorted(CASES))
def test_only_the_case_with_its_own_mount_has_a_warning(name: str) -> None:
    assert ("Warnings" in case(name).notes) is (name == "many-models")
