"""Flags, environment, and the sentence for each mistake in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.cli import VERBS, read_settings, read_verb
from downloader.errors import (
    EXIT_CODES,
    DownloadError,
    InvalidSettingError,
    LeaseLostError,
    NoSpaceError,
    NotPermittedError,
    StorageError,
    TransientError,
    exit_code,
)
from downloader.settings import Settings
from downloader.verbs import find_verb

SOURCE = ["--source", "hf://owner/name", "--name", "sd"]


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_NAME", "from-environment")
    monkeypatch.setenv("DOWNLOADER_TARGET", "/from/environment")

    settings = read_settings([*SOURCE, "--max_workers", "2"])

    assert (settings.name, settings.target) == ("sd", Path("/from/environment"))
    assert (settings.variant, settings.max_workers) == ("fp16", 2)


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_SOURCE", "hf://owner/name")
    monkeypatch.setenv("DOWNLOADER_NAME", "sd")
    monkeypatch.setenv("DOWNLOADER_VARIANT", "")
    assert read_settings([]).variant == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*SOURCE, "--max_workers", "0"], "--max_workers (DOWNLOADER_MAX_WORKERS): Input should"),
        ([*SOURCE, "--sorce", "hf://a/b"], "unknown argument --sorce; --help lists the flags"),
        ([*SOURCE, "--token=hf_secret"], "unknown argument --token; --help lists the flags"),
        ([*SOURCE, "hf_secret"], "unknown argument; --help lists the flags"),
        (["--source"], "argument --source: expected one argument"),
    ],
    ids=["out of range", "unknown", "a secret", "a bare word", "no value"],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        read_settings(arguments)
    assert str(caught.value).startswith(sentence)
    assert "hf_secret" not in str(caught.value)
    assert exit_code(caught.value) == 2


def test_help_describes_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read_settings(["--help"])
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name}" in text


def test_the_first_word_may_be_a_verb() -> None:
    assert read_verb([]) == ("fetch", [])
    assert read_verb(["--name", "sd"]) == ("fetch", ["--name", "sd"])
    assert read_verb(["prune", "--keep", "1"]) == ("prune", ["--keep", "1"])
    with pytest.raises(InvalidSettingError, match="verbs are fetch, plan") as caught:
        read_verb(["hf_secret"])
    assert "hf_secret" not in str(caught.value)


def test_every_verb_has_a_function_of_its_own() -> None:
    assert len({find_verb(verb) for verb in VERBS}) == len(VERBS)


def test_dashes_do_in_a_flag() -> None:
    settings = read_settings([*SOURCE, "--log-format", "json", "--max-workers=2"])
    assert (settings.log_format, settings.max_workers) == ("json", 2)


def test_an_empty_path_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOADER_SPEC", "")
    monkeypatch.setenv("DOWNLOADER_TOKEN_FILE", "")
    settings = read_settings([])
    assert (settings.spec, settings.token_file) == (None, None)


def test_an_error_without_a_code_has_that_of_its_family_or_1() -> None:
    assert exit_code(LeaseLostError()) == exit_code(StorageError()) == 1
    assert exit_code(DownloadError()) == 1
    assert exit_code(NoSpaceError()) == 5
    assert exit_code(NotPermittedError()) == 10
    assert exit_code(TransientError("")) == 7
    assert sorted(set(EXIT_CODES.values())) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
