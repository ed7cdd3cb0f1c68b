"""The deploy command explains the downloader's exit codes without importing the downloader."""

from __future__ import annotations

import pytest

from deploy.explain.job import DOWNLOADER_EXIT_CODES
from downloader import errors
from downloader.stop import InterruptedRunError

# A word of each explanation, so that codes that trade places are noticed too.
WORDS: dict[type[BaseException], str] = {
    errors.InvalidSettingError: "setting",
    errors.NotAuthorisedError: "token",
    errors.NotFoundError: "does not exist",
    errors.NoSpaceError: "full",
    errors.CorruptFileError: "corrupt",
    errors.NetworkError: "network",
    errors.UnsuitableModelError: "no safetensors",
    InterruptedRunError: "interrupted",
}


def test_each_exit_code_is_explained_and_no_other() -> None:
    assert DOWNLOADER_EXIT_CODES.keys() == set(errors.EXIT_CODES.values())
    assert {errors.EXIT_CODES[kind] for kind in WORDS} == set(errors.EXIT_CODES.values())


@pytest.mark.parametrize(
    ("kind", "word"), WORDS.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_the_explanation_is_that_of_the_error(kind: type[BaseException], word: str) -> None:
    reason, advice = DOWNLOADER_EXIT_CODES[errors.EXIT_CODES[kind]]

    assert word in reason
    assert advice
