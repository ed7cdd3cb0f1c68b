"""A picture of NaN or infinity fails, at startup and per request; a black picture does not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.composite import CompositeEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import GenerationFailedError, ModelLoadError
from predictor.loading.engine import Learned
from predictor.loading.loader import load
from predictor.loading.profile import read_profile
from predictor.loading.refiner_weights import warm_up_refiner
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest
from predictor.settings import Settings
from tests.downloader.volume import download
from tests.predictor.checkpoints import unpublished
from tests.predictor.drawing import own_call, submit_all
from tests.predictor.random_families import build_lcm, build_pixart, build_sd2
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.predictor.random_refiner import build_refiner

REQUEST = GenerationRequest("a red circle", "", 3, 64, 64, 2, 3.0, "default")
FAMILIES = [build_sd3, build_flux, build_lcm, build_pixart, build_sd2, build_sdxl]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda build: build.__name__)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> DiffusersPipeline:
    return loaded(request.param(), tmp_path_factory.mktemp("model"))


def loaded(pipeline: DiffusionPipeline, folder: Path) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    profile = read_profile(pipeline, unpublished(folder), has_refiner=False)
    return DiffusersPipeline(pipeline, profile)


@contextmanager
def every_picture_is(pipeline: Any, value: float) -> Iterator[None]:
    """Let the VAE decode one pixel of every picture to ``value``, and the rest to black."""
    decode = pipeline.vae.decode

    def decoded(*arguments: Any, **options: Any) -> Any:
        (image,) = decode(*arguments, **options)
        image[:] = -1
        image[:, :, 5, 5] = value
        return (image,)

    pipeline.vae.decode = decoded
    try:
        yield
    finally:
        pipeline.vae.decode = decode


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_pipeline_returns_a_picture_that_is_not_finite(
    whole: DiffusersPipeline, value: float
) -> None:
    engine = CompositeEngine(WholeBatchEngine(whole, max_batch=2, max_queue_length=4))

    with every_picture_is(whole.diffusers, value), closing(engine):
        (failed,) = submit_all(engine, REQUEST, return_exceptions=True)

    assert isinstance(failed, GenerationFailedError)
    assert "NaN or infinity" in str(failed)


def test_a_black_picture_is_returned(whole: DiffusersPipeline) -> None:
    with every_picture_is(whole.diffusers, -1):
        picture = own_call(whole, REQUEST)

    assert picture.getextrema() == ((0, 0),) * 3


def test_a_pipeline_without_an_image_processor_is_checked(tmp_path: Path) -> None:
    """Kandinsky and others convert the array themselves."""

    class Converting(StableDiffusion3Pipeline):
        @functools.wraps(StableDiffusion3Pipeline.__call__)
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            output = super().__call__(*arguments, **options, output_type="np")
            output.images[0, 5, 5] = pixel
            output.images = self.numpy_to_pil(output.images)
            return output

    converting = loaded(Converting(**build_sd3().components), tmp_path)
    pixel = 0.5
    assert own_call(converting, REQUEST).getpixel((5, 5)) == (128, 128, 128)
    pixel = np.nan
    with pytest.raises(ArithmeticError, match="NaN or infinity"):
        own_call(converting, REQUEST)


def test_only_the_picture_that_is_not_finite_fails(tmp_path: Path) -> None:
    sd3 = loaded(build_sd3(), tmp_path)
    encode = sd3.diffusers.encode_prompt

    def poisoned(**options: Any) -> Any:
        embeddings, *others = encode(**options)
        embeddings[["star" in one for one in options["prompt"]]] = torch.nan
        return (embeddings, *others)

    sd3.diffusers.encode_prompt = poisoned
    engine = CompositeEngine(WholeBatchEngine(sd3, max_batch=4, max_queue_length=8))
    requests = [replace(REQUEST, prompt=prompt) for prompt in ("a circle", "a star", "a square")]

    with closing(engine):
        before, failed, after = submit_all(engine, *requests, return_exceptions=True)

    assert isinstance(failed, GenerationFailedError)
    assert "NaN or infinity" in str(failed)
    assert before.size == after.size == (64, 64)


@pytest.mark.parametrize("build", [build_sd3, build_sd2], ids=lambda build: build.__name__)
@pytest.mark.parametrize("part", ["vae", "denoiser"])
def test_a_model_whose_weights_are_nan_does_not_become_ready(
    tmp_path: Path, build: Callable[[], DiffusionPipeline], part: str
) -> None:
    build().save_pretrained(tmp_path / "source")
    folder = "vae" if part == "vae" else "unet" if build is build_sd2 else "transformer"
    (weights,) = (tmp_path / "source" / folder).glob("*.safetensors")
    tensors = load_file(weights)
    for tensor in tensors.values():
        tensor.fill_(torch.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    download(tmp_path / "source", tmp_path, name="model")

    with pytest.raises(ModelLoadError) as caught:
        load(Checkpoint.read(tmp_path / "model"), Settings(), Learned())

    assert str(caught.value) == (
        "the warm-up picture failed: the picture came out as NaN or infinity"
    )


def test_a_refiner_whose_weights_are_nan_does_not_become_ready() -> None:
    refiner = build_refiner(build_sdxl())
    warm_up_refiner(refiner)
    with torch.no_grad():
        refiner.unet.conv_out.bias.fill_(torch.nan)

    with pytest.raises(ModelLoadError, match=r"warm-up step failed: .* NaN or infinity"):
        warm_up_refiner(refiner)
