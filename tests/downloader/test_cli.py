"""Verbs, flags and environment variables, and the message for each mistake in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.cli import read_verb
from downloader.errors import (
    EXITS,
    DownloadError,
    InvalidSettingError,
    LeaseLostError,
    NoSpaceError,
    NotPermittedError,
    StorageError,
    TransientError,
    exit_of,
)
from downloader.settings import VERBS, Fetch, ListModels, Prune, Rollback, Settings, Verify
from downloader.verbs import fetching, housekeeping, run_verb
from tests.downloader.job import Job

SOURCE = ["--source", "hf://owner/name", "--name", "sd"]


def read_fetch(*arguments: str) -> Fetch:
    verb = read_verb(arguments)
    assert isinstance(verb, Fetch)
    return verb


def test_flags_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_NAME", "from-environment")
    monkeypatch.setenv("DOWNLOADER_TARGET", "/from/environment")

    verb = read_fetch(*SOURCE, "--max_workers", "2")

    assert (verb.name, verb.target) == ("sd", Path("/from/environment"))
    assert (verb.variant, verb.max_workers) == ("fp16", 2)


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_SOURCE", "hf://owner/name")
    monkeypatch.setenv("DOWNLOADER_NAME", "sd")
    monkeypatch.setenv("DOWNLOADER_VARIANT", "")
    assert (read_fetch().source, read_fetch().variant) == ("hf://owner/name", "")


@pytest.mark.parametrize("name", VERBS)
def test_every_setting_of_every_verb_has_a_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = VERBS[name]
    given = {"log_format": "json", "rehash": "false", "s3_addressing": "path"}
    values = {field: given.get(field, "7") for field in kind.model_fields}
    for field, value in values.items():
        monkeypatch.setenv(f"DOWNLOADER_{field.upper()}", value)

    verb = read_verb([name])

    assert type(verb) is kind
    assert verb == kind(**values)
    assert all(getattr(verb, field) != kind.model_fields[field].default for field in values)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*SOURCE, "--max_workers", "0"], "--max-workers (DOWNLOADER_MAX_WORKERS): Input should"),
        ([*SOURCE, "--sorce", "hf://a/b"], "unknown argument --sorce; --help lists the flags"),
        ([*SOURCE, "--token=hf_secret"], "unknown argument --token; --help lists the flags"),
        ([*SOURCE, "hf_secret"], "unknown argument; --help lists the flags"),
        (["--source"], "argument --source: expected one argument"),
        (["hf_secret"], "unknown verb; the verbs are fetch, plan, verify"),
        (["rollback", "--sha256", "0"], "unknown argument --sha256; --help lists the flags"),
        (["list", "--rehash=false"], "unknown argument --rehash; --help lists the flags"),
    ],
    ids=[
        *("out of range", "unknown", "a secret", "a bare word", "no value", "not a verb"),
        *("a flag of another verb", "an assigned flag of another verb"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        read_verb(arguments)
    assert str(caught.value).startswith(sentence)
    assert "hf_secret" not in str(caught.value)
    assert exit_of(caught.value).code == 2


def test_a_variable_out_of_range_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_KEEP", "0")
    with pytest.raises(InvalidSettingError, match=r"--keep \(DOWNLOADER_KEEP\): Input should"):
        read_verb(["prune"])


def test_a_flag_of_another_verb_ends_the_run(job: Job) -> None:
    result = job.verb("rollback", "--sha256", "0" * 64)
    assert result.returncode == 2
    assert result.stderr == "error: unknown argument --sha256; --help lists the flags\n"


@pytest.mark.parametrize("name", VERBS)
def test_help_describes_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read_verb([name, "--help"])
    text = capsys.readouterr().out
    for field in VERBS[name].model_fields:
        assert f"--{field.replace('_', '-')} " in text


def test_help_describes_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read_verb(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, verb in VERBS.items():
        assert f"{name} {verb.__doc__}" in text


def test_the_first_word_may_be_a_verb() -> None:
    assert type(read_verb([])) is Fetch
    assert read_verb(["--name", "sd"]) == Fetch(name="sd")
    assert read_verb(["prune", "--keep", "1"]) == Prune(keep=1)
    assert read_verb(["rollback", "--name=sd"]) == Rollback(name="sd")
    assert type(read_verb(["verify"])) is Verify
    assert type(read_verb(["list"])) is ListModels


def test_the_verbs_are_the_subcommands() -> None:
    assert list(VERBS) == list(Settings.model_fields)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_function_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fetching, housekeeping):
        for function in ("fetch", "plan", "verify", "list_models", "prune", "rollback", "adopt"):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda _, name=function: name)

    assert run_verb(VERBS[name]()).removesuffix("_models") == name


@pytest.mark.parametrize("flags", [("--log-format", "json"), ("--log_format=json",)])
def test_flags_may_have_dashes_or_underscores(flags: tuple[str, ...]) -> None:
    assert read_fetch(*flags, "--name", "a_b", "--source=file:///a_b") == Fetch(
        log_format="json", name="a_b", source="file:///a_b"
    )


def test_an_empty_path_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_SPEC", "")
    monkeypatch.setenv("DOWNLOADER_TOKEN_FILE", "")
    assert (read_fetch().spec, read_fetch().token_file) == (None, None)


def test_an_error_without_an_exit_code_has_that_of_its_base_class() -> None:
    assert exit_of(LeaseLostError()).code == exit_of(StorageError()).code == 1
    assert exit_of(DownloadError()).code == exit_of(ZeroDivisionError()).code == 1
    assert exit_of(NoSpaceError()).code == 5
    assert exit_of(NotPermittedError()).code == 10
    assert exit_of(TransientError("")).code == 7
    assert sorted({one.code for one in EXITS.values()}) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
