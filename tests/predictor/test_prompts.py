"""What a text encoder does not read."""

from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from demo.tokenizer import WINDOW, build_tokenizer
from predictor.pipelines.prompts import dropped_text, truncation_warning

FULL = "red " * (WINDOW - 2)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(["a red circle on a blue background"])


def test_the_window_holds_start_and_end_beside_the_words(tokenizer: CLIPTokenizer) -> None:
    assert dropped_text(tokenizer, FULL) == ""
    assert dropped_text(tokenizer, FULL + "Blue") == "Blue"


def test_the_dropped_part_is_told_as_it_was_written(tokenizer: CLIPTokenizer) -> None:
    assert dropped_text(tokenizer, FULL + "Ein  GRÜNES Quadrat!") == "Ein  GRÜNES Quadrat!"


def test_an_encoder_with_a_longer_window_reads_the_end(tokenizer: CLIPTokenizer) -> None:
    longer = build_tokenizer(["a red circle on a blue background"])
    longer.model_max_length = 512

    assert truncation_warning("prompt", [tokenizer], "red " * 80)
    assert truncation_warning("prompt", [tokenizer, longer], "red " * 80) is None
