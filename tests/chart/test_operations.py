"""The commands of docs/operations.md, run on the rendered chart."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from .rendering import ROOT, case, render

OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
# Knative's defaults while `config-defaults` holds only its example.
STOCK_TIMEOUT = 300
STOCK_MAX_TIMEOUT = 600
FLAGS = OPERATIONS.partition("### Flags of Knative")[2].partition("\n## ")[0]


def patches() -> dict[str, dict[str, str]]:
    """The data of each patch by its ConfigMap."""
    found = re.findall(r"kubectl patch configmap (\S+) .*?--patch '(.*?)'\n", FLAGS, re.DOTALL)
    return {name: json.loads(patch)["data"] for name, patch in found}


def test_the_patch_enables_exactly_the_flags_of_the_table() -> None:
    table = re.findall(r"^\| .* \| `(kubernetes\.\S+)` \|$", FLAGS, re.MULTILINE)
    assert len(table) == 11
    assert patches()["config-features"] == dict.fromkeys(table, "enabled")


def test_the_values_for_a_platform_render() -> None:
    section = OPERATIONS.partition("## Requirements of your platform")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    rendered = render(yaml.safe_load(block))
    assert "@sha256:" in rendered.predictor_container["image"]
    assert "@sha256:" in rendered.downloader_container["image"]
    assert "Warnings" not in rendered.notes


def test_the_values_of_the_patch_are_strings_as_in_any_config_map() -> None:
    data = patches()["config-defaults"]
    assert all(isinstance(value, str) for value in data.values())
    assert all(f"`{key}`" in FLAGS for key in data)


def refusal_of_defaults(data: dict[str, str]) -> str | None:
    """The reason why Knative 1.21's webhook rejects a ``config-defaults``, if any.

    ``NewDefaultsConfigFromMap`` in https://github.com/knative/serving pkg/apis/config/defaults.go
    """
    timeout = int(data.get("revision-timeout-seconds", STOCK_TIMEOUT))
    longest = int(data.get("max-revision-timeout-seconds", STOCK_MAX_TIMEOUT))
    start = int(data.get("revision-response-start-timeout-seconds", timeout))
    idle = int(data.get("revision-idle-timeout-seconds", 0))
    if timeout > longest:
        return "revision-timeout-seconds exceeds max-revision-timeout-seconds"
    if start > timeout:
        return "revision-response-start-timeout-seconds exceeds revision-timeout-seconds"
    if idle > timeout:
        return "revision-idle-timeout-seconds exceeds revision-timeout-seconds"
    return None


def test_knative_accepts_the_patch_of_the_limits_on_a_stock_config_map() -> None:
    data = patches()["config-defaults"]
    assert refusal_of_defaults(data) is None
    assert int(data["max-revision-timeout-seconds"]) > STOCK_MAX_TIMEOUT
    assert f"`max-revision-timeout-seconds`, which is {STOCK_MAX_TIMEOUT}" in FLAGS


def test_knative_rejects_the_timeout_that_the_document_warns_of() -> None:
    key = "revision-response-start-timeout-seconds"
    raised = patches()["config-defaults"] | {key: str(STOCK_TIMEOUT + 1)}
    assert refusal_of_defaults(raised) == f"{key} exceeds revision-timeout-seconds"
    warning = f"`{key}` alone. It cannot exceed `revision-timeout-seconds`, {STOCK_TIMEOUT},"
    assert warning in " ".join(FLAGS.split())


def test_the_default_timeout_fits_a_stock_knative() -> None:
    assert case("default").predictor["timeout"] <= STOCK_MAX_TIMEOUT


@pytest.mark.parametrize(
    "path",
    [
        "docs/air-gap.md",
        "docs/api.md",
        "docs/architecture.md",
        "docs/deploy.md",
        "docs/downloads.md",
        "docs/gateway.md",
        "docs/gitops.md",
        "docs/gpus.md",
        "docs/install.md",
        "docs/memory.md",
        "docs/openshift.md",
        "docs/operations.md",
        "docs/rollout.md",
        "docs/upgrading.md",
        "helm/README.md",
    ],
)
def test_every_cited_source_has_a_link(path: str) -> None:
    prose = re.sub(r"(?s)```.*?```|`[^`]*`", "", (ROOT / path).read_text("utf-8"))
    addresses = dict(re.findall(r"(?m)^\[([^\]]+)\]: (https://\S+)$", prose))
    named = re.findall(r"\]\[([^\]]+)\]|\[([^\]]+)\](?![\[(:])", prose)
    assert {first or second for first, second in named} == set(addresses)
    assert len(set(addresses.values())) == len(addresses)


def test_the_rollback_command_turns_the_job_into_a_pod() -> None:
    section = OPERATIONS.partition("## Rollback")[2].partition("\n## ")[0]
    (script,) = re.findall(r"python3 -c '(.*?)' \| kubectl", section, re.DOTALL)
    job = case("default").one("Job")
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        input=json.dumps(job),
    )
    pod = json.loads(done.stdout)
    kubernetes_validate.validate(pod, "1.37", strict=True)
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["rollback"]
    assert container["env"] == case("default").downloader_container["env"]
    assert pod["spec"]["securityContext"] == case("default").downloader_pod["securityContext"]
