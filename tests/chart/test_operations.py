"""What docs/operations.md tells people to type, tried on what the chart renders."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import kubernetes_validate

from .rendering import ROOT, case

OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
FLAGS = OPERATIONS.partition("### Flags of Knative")[2].partition("\n## ")[0]


def patches() -> dict[str, dict[str, str]]:
    """The data of each patch by its ConfigMap."""
    found = re.findall(r"kubectl patch configmap (\S+) .*?--patch '(.*?)'\n", FLAGS, re.DOTALL)
    return {name: json.loads(patch)["data"] for name, patch in found}


def test_the_patch_switches_on_the_flags_of_the_table_and_no_others() -> None:
    table = re.findall(r"^\| .* \| `(kubernetes\.\S+)` \|$", FLAGS, re.MULTILINE)
    assert len(table) == 6
    assert patches()["config-features"] == dict.fromkeys(table, "enabled")


def test_the_patch_of_the_limits_is_text_as_a_config_map_needs() -> None:
    data = patches()["config-defaults"]
    assert all(isinstance(value, str) for value in data.values())
    first, second = data
    assert f"`{first}`" in FLAGS
    assert f"`{second}`" in FLAGS


def test_the_rollback_makes_a_pod_of_the_job() -> None:
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
