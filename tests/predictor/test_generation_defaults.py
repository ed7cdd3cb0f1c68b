"""A model folder's own generation defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predictor.checkpoint.configs import read_generation_defaults
from predictor.errors import ModelLoadError
from predictor.requests import GenerationDefaults

FALLBACK = GenerationDefaults(512, 512, 30, 7.5, "unipc")


def test_without_a_file_the_fallback_applies(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path, FALLBACK) == FALLBACK


def test_a_file_replaces_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "generation_defaults.json").write_text('{"guidance_scale": 2, "width": 64}')

    defaults = read_generation_defaults(tmp_path, FALLBACK)

    assert defaults == GenerationDefaults(64, 512, 30, 2, "unipc")


@pytest.mark.parametrize("text", ["{", "", "[" * 5000])
def test_text_that_is_not_json_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_defaults.json").write_text(text)

    with pytest.raises(ModelLoadError, match="is not valid JSON"):
        read_generation_defaults(tmp_path, FALLBACK)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"steps": 20}, "'steps' is not one of width, height"),
        ({"width": "64"}, "width cannot be '64'"),
        ({"num_inference_steps": True}, "num_inference_steps cannot be True"),
        ({"num_inference_steps": 2.5}, "num_inference_steps cannot be 2.5"),
        ([], "JSON object"),
    ],
)
def test_an_invalid_file_is_rejected(tmp_path: Path, document: object, message: str) -> None:
    (tmp_path / "generation_defaults.json").write_text(json.dumps(document))

    with pytest.raises(ModelLoadError, match=r"generation_defaults\.json") as refused:
        read_generation_defaults(tmp_path, FALLBACK)

    assert message in str(refused.value)
