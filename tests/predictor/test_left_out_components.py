"""Folders without components that the downloader left out load and make pictures."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from modelstore.layout import OPTIONAL_COMPONENTS
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError
from predictor.loading.pipeline import load_pipeline
from predictor.safety.layers import open_layers
from predictor.settings import Settings
from tests.predictor.checkpoints import unpublished
from tests.predictor.random_pipelines import build_sd3
from tests.predictor.random_safety import add_checker, copy_model

CPU = Settings(device="cpu")


def without(checkpoint: Checkpoint, *names: str) -> Checkpoint:
    """The checkpoint after a download that left the components out."""
    for name in names:
        shutil.rmtree(checkpoint.folder / name, ignore_errors=True)
    return replace(checkpoint, marker=replace(checkpoint.marker, left_out=names))


def name_in_index(folder: Path, name: str, class_name: str) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index[name] = ["transformers", class_name]
    (folder / "model_index.json").write_text(json.dumps(index))


def components_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The components after the load."""
    return dict(load_pipeline(checkpoint, CPU).diffusers.components)


@pytest.fixture
def model(demo_model: Path, tmp_path: Path) -> Path:
    return copy_model(demo_model, tmp_path / "model")


@pytest.mark.parametrize(
    "names", [("safety_checker",), ("feature_extractor", "safety_checker")], ids=", ".join
)
def test_stable_diffusion_loads_without_its_safety_checker(
    model: Path, names: tuple[str, ...]
) -> None:
    checkpoint = without(Checkpoint.read(add_checker(model, fires=False)), *names)

    components = components_of(checkpoint)

    assert [components[name] for name in names] == [None] * len(names)
    assert components["unet"] is not None
    assert open_layers(checkpoint, CPU).pictures == ()


def test_a_safety_checker_that_the_settings_require_must_be_there(model: Path) -> None:
    checkpoint = without(Checkpoint.read(add_checker(model, fires=False)), "safety_checker")

    with pytest.raises(ModelLoadError, match="does not include a safety checker"):
        open_layers(checkpoint, Settings(device="cpu", safety_checker="block"))


def test_a_safety_checker_without_its_feature_extractor_stops_startup(model: Path) -> None:
    checkpoint = without(Checkpoint.read(add_checker(model, fires=False)), "feature_extractor")

    assert components_of(checkpoint)["feature_extractor"] is None
    with pytest.raises(ModelLoadError, match="the folder feature_extractor/ is missing"):
        open_layers(checkpoint, CPU)


def test_an_image_encoder_may_be_left_out(model: Path) -> None:
    name_in_index(model, "image_encoder", "CLIPVisionModelWithProjection")

    components = components_of(without(Checkpoint.read(model), "image_encoder"))

    assert components["image_encoder"] is None


def test_sd3_loads_without_t5(tmp_path: Path) -> None:
    build_sd3().save_pretrained(tmp_path)
    name_in_index(tmp_path, "text_encoder_3", "T5EncoderModel")
    name_in_index(tmp_path, "tokenizer_3", "T5TokenizerFast")

    components = components_of(without(unpublished(tmp_path), "text_encoder_3", "tokenizer_3"))

    assert components["text_encoder_3"] is components["tokenizer_3"] is None


def test_a_component_that_was_not_left_out_must_be_there(model: Path) -> None:
    name_in_index(model, "image_encoder", "CLIPVisionModelWithProjection")

    with pytest.raises(ModelLoadError, match="does not load"):
        components_of(Checkpoint.read(model))


@pytest.mark.parametrize(
    "pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline, FluxPipeline]
)
def test_diffusers_accepts_none_for_the_optional_components(pipeline: type) -> None:
    accepted = set(inspect.signature(pipeline.__init__).parameters) & set(OPTIONAL_COMPONENTS)
    assert accepted
    assert accepted <= set(pipeline._optional_components)
