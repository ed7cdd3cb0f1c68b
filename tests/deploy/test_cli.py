"""The command line: errors name the flag."""

from __future__ import annotations

import pytest

from deploy.errors import EXIT_CODES, DeployError, UsageError, exit_code
from deploy.settings import Down, Logs, Up, read_verb, seconds_of


def test_flags_have_the_names_of_kubectls_flags() -> None:
    verb = read_verb(["up", "there", "-n", "images", "--dry-run", "--force-conflicts"])

    assert isinstance(verb, Up)
    assert (verb.namespace, verb.dry_run, verb.force_conflicts) == ("images", True, True)
    assert str(verb.folder) == "there"


def test_short_flags() -> None:
    down, logs = read_verb(["down", "-y"]), read_verb(["logs", "download", "-f"])

    assert isinstance(down, Down)
    assert isinstance(logs, Logs)
    assert down.yes
    assert logs.follow


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "up, doctor, status, predict, logs, down"),
        (["start"], "invalid choice: 'start'"),
        (["up", "--timeout", "ten"], "--timeout: must be a duration such as 90s, 30m or 1h30m"),
        (["up", "--nope"], "--nope"),
        (["predict"], "PROMPT"),
        (["predict", "a", "--seed", "x"], "^--seed: "),
        (["predict", "a", "--seed=x"], "^--seed: "),
        (["logs", "folder"], "^WHAT: Input should be 'download' or 'predictor'"),
    ],
)
def test_an_error_names_the_flag(arguments: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        read_verb(arguments)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400)])
def test_durations(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_the_environment_sets_no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP", '{"namespace": "elsewhere"}')
    monkeypatch.setenv("NAMESPACE", "elsewhere")

    verb = read_verb(["up"])

    assert verb.namespace is None


def test_each_family_of_errors_has_a_code_of_its_own() -> None:
    codes = [exit_code(kind("")) for kind in (DeployError, *EXIT_CODES)]

    assert len(set(codes)) == len(codes)
    assert not {0, 130} & set(codes)
