"""The downloader's exit codes: every other place that names them matches the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deploy.explain import Snapshot, explain_job
from downloader.errors import EXITS, Exit, InterruptedRunError

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = {one.code: one for one in EXITS.values()}
UNKNOWN, INTERRUPTED = 1, EXITS[InterruptedRunError].code
# Documents and rules for failures name all codes but the catch-all and the interruption.
FAILURES = TABLE.keys() - {UNKNOWN, INTERRUPTED}


def text(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def test_each_code_has_one_entry() -> None:
    for code, one in TABLE.items():
        assert {other for other in EXITS.values() if other.code == code} == {one}


def test_the_table_of_the_document_matches_the_code() -> None:
    section = text("docs/downloads.md").partition("## Exit codes\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| .+ \| (yes|no) \|$", section, re.MULTILINE)

    assert [Exit(int(code), retry == "yes") for code, retry in rows] == sorted(
        TABLE.values(), key=lambda one: one.code
    )


def test_the_job_retries_only_failures_that_a_retry_can_fix() -> None:
    job = yaml.safe_load(text("manifests/02-model-download-job.yaml"))
    rules = job["spec"]["podFailurePolicy"]["rules"]

    assert {
        rule["action"]: set(rule["onExitCodes"]["values"])
        for rule in rules
        if "onExitCodes" in rule
    } == {
        "FailJob": {code for code, one in TABLE.items() if not one.is_worth_a_retry},
        "Ignore": {INTERRUPTED},
    }


@pytest.mark.parametrize("code", TABLE)
def test_the_deploy_command_explains_every_code_but_the_catch_all(code: int) -> None:
    failed = {"type": "Failed", "status": "True", "message": f"failed with exit code {code}"}
    job = {"metadata": {"name": "download"}, "status": {"conditions": [failed]}}

    explanation = str(explain_job(Snapshot(job)))

    assert (f"(exit code {code})" in explanation) == (code != UNKNOWN)


@pytest.mark.parametrize(
    ("path", "begin", "end"),
    [
        ("helm/templates/NOTES.txt", "exit code 2", "{{-"),
        ("docs/operations.md", "### StableDiffusionDownloadFailed", "\n### "),
    ],
)
def test_lists_of_failures_are_complete(path: str, begin: str, end: str) -> None:
    section = begin + text(path).partition(begin)[2].partition(end)[0]

    assert {int(code) for code in re.findall(r"\b(\d+): ", section)} == FAILURES
