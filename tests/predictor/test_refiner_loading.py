"""A refiner on the volume: published with its base, loaded without shared parts, served."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import InvalidRequestError, ModelLoadError
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import Limits
from predictor.settings import Settings
from tests.downloader.volume import download
from tests.predictor.checkpoints import measured_engine
from tests.predictor.decoding import decode
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import build_sd3, build_sdxl
from tests.predictor.random_refiner import build_refiner, edit, publish, save_pair


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    save_pair(folder)
    return folder


@pytest.fixture(scope="module")
def published(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(sources, tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="module")
def loaded(published: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(published), Settings())


def test_it_shares_equal_components_with_the_base(loaded: DiffusersPipeline) -> None:
    assert loaded.refiner is not None
    base, refiner = loaded.diffusers, loaded.refiner.diffusers

    assert refiner.vae is base.vae
    assert refiner.text_encoder_2 is base.text_encoder_2
    assert refiner.tokenizer_2 is base.tokenizer_2
    assert refiner.unet is not base.unet
    assert refiner.text_encoder is None


def _other_weights(refiner: Path) -> None:
    encoder = build_refiner(build_sdxl()).text_encoder_2
    with torch.no_grad():
        encoder.text_projection.weight.add_(1)
    encoder.save_pretrained(refiner / "text_encoder_2")


def _other_configuration(refiner: Path) -> None:
    edit(refiner / "text_encoder_2/config.json", {"hidden_act": "gelu"})


@pytest.mark.parametrize("change", [_other_weights, _other_configuration])
def test_a_different_text_encoder_is_not_shared(
    sources: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "base").symlink_to(sources / "base")
    build_refiner(build_sdxl()).save_pretrained(tmp_path / "refiner")
    change(tmp_path / "refiner")

    loaded = load_pipeline(Checkpoint.read(publish(tmp_path, tmp_path)), Settings())

    assert loaded.refiner is not None
    assert loaded.refiner.diffusers.text_encoder_2 is not loaded.diffusers.text_encoder_2
    assert loaded.refiner.diffusers.vae is loaded.diffusers.vae


def test_the_profile_has_it_and_the_default_hand_over_is_at_four_fifths(
    loaded: DiffusersPipeline,
) -> None:
    assert loaded.profile.has_refiner
    assert loaded.profile.defaults.denoising_end == 0.8
    assert loaded.profile.default_request("any").parameters()["denoising_end"] == 0.8


def test_the_engine_is_chosen_measured_and_hands_over(loaded: DiffusersPipeline) -> None:
    asked = replace(
        loaded.profile.default_request("a red circle"),
        width=64,
        height=64,
        num_inference_steps=4,
        denoising_end=0.25,
    )
    reported: list[tuple[int, int]] = []

    engine = measured_engine(loaded, Settings(max_lanes=4))

    async def story() -> list[Any]:
        try:
            return await asyncio.gather(
                engine.submit(asked, lambda step, steps: reported.append((step, steps))),
                engine.submit(replace(asked, denoising_end=1.0)),
            )
        finally:
            engine.close()

    refined, plain = asyncio.run(story())
    assert reported == [(step, 4) for step in range(1, 5)]
    assert largest_difference(refined.image, plain.image) > 10


@pytest.mark.parametrize("value", [0, -0.1, 1.1, float("nan")])
def test_a_hand_over_out_of_range_is_rejected(loaded: DiffusersPipeline, value: float) -> None:
    asked = replace(loaded.profile.default_request("a star"), denoising_end=value)

    with pytest.raises(InvalidRequestError, match=r"denoising_end: .* not above 0 and at most 1"):
        Limits(Settings(), loaded.profile).check(asked)


def test_inpainting_uses_only_the_base(loaded: DiffusersPipeline) -> None:
    profile = replace(loaded.profile, tasks=("text-to-image", "inpainting"))
    stream = io.BytesIO()
    Image.new("RGB", (128, 128), "white").save(stream, "png")
    picture = base64.b64encode(stream.getvalue()).decode()
    body = {"prompt": "a star", "image": picture, "mask_image": picture}

    limits = Limits(Settings(), profile)
    (made,) = decode(body, limits).pictures

    assert made.request.denoising_end == 1
    with pytest.raises(InvalidRequestError, match="the refiner does not support inpainting"):
        decode(body | {"denoising_end": 0.8}, limits)


def test_the_generation_defaults_may_set_the_hand_over(sources: Path, tmp_path: Path) -> None:
    folder = publish(sources, tmp_path)
    (folder / "generation_defaults.json").write_text('{"denoising_end": 0.6}')

    profile = load_pipeline(Checkpoint.read(folder), Settings()).profile

    assert profile.defaults.denoising_end == 0.6


def test_a_refiner_published_as_a_model_is_rejected(sources: Path, tmp_path: Path) -> None:
    download(sources / "refiner", tmp_path, name="alone")

    with pytest.raises(ModelLoadError, match=r"this is SDXL's refiner.*publish a base"):
        load_pipeline(Checkpoint.read(tmp_path / "alone"), Settings())


def test_a_refiner_that_does_not_fit_stops_startup(tmp_path: Path) -> None:
    base = build_sdxl()
    base.save_pretrained(tmp_path / "base")
    refiner = build_refiner(base)
    # Without the score, its UNet gets six numbers instead of five.
    refiner.register_to_config(requires_aesthetics_score=False)
    refiner.save_pretrained(tmp_path / "refiner")

    with pytest.raises(ModelLoadError, match="the refiner's warm-up step failed"):
        load_pipeline(Checkpoint.read(publish(tmp_path, tmp_path)), Settings())


def test_a_refiner_is_ignored_if_the_base_does_not_support_one(
    sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base: DiffusionPipeline = build_sd3()
    base.save_pretrained(tmp_path / "base")
    (tmp_path / "refiner").symlink_to(sources / "refiner")

    loaded = load_pipeline(Checkpoint.read(publish(tmp_path, tmp_path)), Settings())

    assert loaded.refiner is None
    assert not loaded.profile.has_refiner
    assert "StableDiffusion3Pipeline does not support a refiner" in caplog.text
