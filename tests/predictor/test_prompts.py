"""Prompts longer than the text encoder's window."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.tokenizer import WINDOW, build_tokenizer
from predictor.pipelines.prompts import Window, dropped_text, truncation_warning, windows

FULL = "red " * (WINDOW - 2)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(["a red circle on a blue background"])


@pytest.fixture(scope="module")
def window(tokenizer: CLIPTokenizer) -> Window:
    return Window(tokenizer, WINDOW)


def test_the_window_includes_the_start_and_end_tokens(window: Window) -> None:
    assert dropped_text(window, FULL) == ""
    assert dropped_text(window, FULL + "Blue") == "Blue"


def test_the_dropped_text_is_reported_as_written(window: Window) -> None:
    assert dropped_text(window, FULL + "Ein  GRÜNES Quadrat!") == "Ein  GRÜNES Quadrat!"


def test_an_encoder_with_a_longer_window_reads_the_end(window: Window) -> None:
    longer = Window(window.tokenizer, 512)

    assert truncation_warning("prompt", [window], "red " * 80)
    assert truncation_warning("prompt", [window, longer], "red " * 80) is None


def test_the_window_of_an_encoder_is_the_pipelines_limit(tokenizer: CLIPTokenizer) -> None:
    """CLIP keeps its own window; an encoder that is not loaded has none."""
    components = {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(CLIPTextConfig(num_hidden_layers=1, hidden_size=64)),
        "tokenizer_2": tokenizer,
        "text_encoder_2": torch.nn.Identity(),
        "tokenizer_3": tokenizer,
        "text_encoder_3": None,
    }

    assert [one.tokens for one in windows(components, 256)] == [WINDOW, 256]
    assert [one.tokens for one in windows(components, None)] == [WINDOW, WINDOW]
