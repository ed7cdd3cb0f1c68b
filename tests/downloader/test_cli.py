"""Flags, environment, and the sentence for each mistake in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.cli import read_settings
from downloader.errors import (
    EXIT_CODES,
    DownloadError,
    InUseError,
    InvalidSettingError,
    NoSpaceError,
    StorageError,
    exit_code,
)

SOURCE = ["--source", "hf://owner/name", "--name", "sd"]


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("SOURCE", "NAME", "TARGET", "VARIANT", "MAX_WORKERS"):
        monkeypatch.delenv(f"DOWNLOADER_{field}", raising=False)


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
        (["--name", "sd"], "--source (DOWNLOADER_SOURCE): Field required"),
        ([*SOURCE, "--max_workers", "0"], "--max_workers (DOWNLOADER_MAX_WORKERS): Input should"),
        ([*SOURCE, "--sorce", "hf://a/b"], "unknown argument --sorce; --help lists the flags"),
        ([*SOURCE, "--token=hf_secret"], "unknown argument --token; --help lists the flags"),
        ([*SOURCE, "hf_secret"], "unknown argument; --help lists the flags"),
        (["--source"], "argument --source: expected one argument"),
    ],
    ids=["missing", "out of range", "unknown", "a secret", "a bare word", "no value"],
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
    for flag in ("--source", "--name", "--target", "--variant", "--max_workers"):
        assert flag in text


def test_an_error_without_a_code_has_that_of_its_family_or_1() -> None:
    assert exit_code(InUseError()) == exit_code(StorageError()) == exit_code(DownloadError()) == 1
    assert exit_code(NoSpaceError()) == 5
    assert sorted(set(EXIT_CODES.values())) == [2, 3, 4, 5, 6, 7]
