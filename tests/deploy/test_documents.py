"""docs/deploy.md lists exactly the verbs, flags, exit codes and checks that exist."""

from __future__ import annotations

import re

from deploy import settings
from deploy.checks import CHECKS
from deploy.errors import EXIT_CODES, INTERRUPTED
from tests.deploy.conftest import ROOT

TEXT = (ROOT / "docs" / "deploy.md").read_text("utf-8")
VERBS = {
    name: next(iter(field.annotation.__args__), field.annotation)
    for name, field in settings.Settings.model_fields.items()
    if field.annotation
}


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_exit_codes() -> None:
    documented = {
        int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)
    }

    assert documented == {0, 1, *EXIT_CODES.values(), INTERRUPTED}


def test_the_verbs_and_their_flags() -> None:
    rows = dict(re.findall(r"^\| `(\w+)[^|]*\|(.*)\|$", section("Verbs"), re.MULTILINE))

    assert rows.keys() == VERBS.keys()
    shared = settings.ClusterFlags.model_fields.keys()
    for name, model in VERBS.items():
        flags = set(re.findall(r"`--([\w-]+)", rows[name]))
        fields = {
            field.replace("_", "-")
            for field, info in model.model_fields.items()
            if field not in shared and not _is_positional(info.metadata)
        }
        assert flags == fields, name
    for flag in shared:
        assert f"`--{flag}`" in TEXT


def test_the_checks() -> None:
    rows = re.findall(r"^\| ([\w ]+?) \|", section("What the doctor checks"), re.MULTILINE)

    assert {*rows} - {"check"} == {check.TITLE for check in CHECKS}


def _is_positional(metadata: list[object]) -> bool:
    return any("Positional" in str(one) for one in metadata)
