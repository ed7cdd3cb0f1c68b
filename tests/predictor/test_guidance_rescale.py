"""``guidance_rescale``: where it is supported, and that it draws what diffusers draws."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLImg2ImgPipeline
from PIL import Image

from demo.shapes import Placement, Scene, draw, mask
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.whole_batch import WholeBatchEngine, batch_key
from predictor.errors import InvalidRequestError
from predictor.loading.pipeline import load_pipeline
from predictor.loading.profile import read_profile
from predictor.pipelines.tasks import pipeline_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.protocol.model_metadata import model_metadata
from predictor.requests import GenerationRequest, InputImage, Limits
from predictor.settings import Settings
from tests.predictor.checkpoints import unpublished
from tests.predictor.decoding import decode
from tests.predictor.drawing import make, own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_inpainting import build_sd_inpainting
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.predictor.test_refiner_pictures import in_turn
from tests.predictor.test_refiner_pictures import pair as pair  # a fixture
from tests.serving import MODEL_NAME, PREDICT

# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2
ALL = ("text-to-image", "image-to-image", "inpainting")
PICTURE = InputImage.of(draw(Scene("red", "circle", "blue"), Placement()))
MASK = InputImage.of(mask("square", Placement()))
TEXT = GenerationRequest(
    *("a yellow star on a black background", "", 3, 64, 64, 6, 9.0, "unipc"), guidance_rescale=0.7
)
IMAGE_TO_IMAGE = replace(TEXT, image=PICTURE, strength=0.6)
INPAINTING = replace(TEXT, image=PICTURE, mask_image=MASK, strength=1.0)


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings())


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    return loaded(build_sdxl(), tmp_path_factory.mktemp("sdxl"))


def loaded(pipeline: DiffusionPipeline, folder: Path) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(
        pipeline, read_profile(pipeline, unpublished(folder), has_refiner=False)
    )


def refusal(pipeline: DiffusersPipeline, **fields: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        decode({"prompt": "a star"} | fields, Limits(Settings(), pipeline.profile))
    assert caught.value.field == "guidance_rescale"
    return caught.value.reason


@pytest.mark.parametrize("family", ["demo", "sdxl"])
@pytest.mark.parametrize("scheduler", ["unipc", "euler_a", "heun"])
@pytest.mark.parametrize("guidance_rescale", [0.0, 0.7, 1.0])
def test_a_picture_matches_diffusers(
    request: pytest.FixtureRequest, family: str, scheduler: str, guidance_rescale: float
) -> None:
    pipeline = request.getfixturevalue(family)
    wanted = replace(TEXT, scheduler=scheduler, guidance_rescale=guidance_rescale)

    (picture,) = make(pipeline, wanted)

    assert largest_difference(picture, own_call(pipeline, wanted)) <= TOLERANCE


@pytest.mark.parametrize(
    "request_", [IMAGE_TO_IMAGE, INPAINTING, replace(INPAINTING, strength=0.6)]
)
def test_image_tasks_of_sdxl_match_diffusers(
    sdxl: DiffusersPipeline, request_: GenerationRequest
) -> None:
    (picture,) = make(sdxl, request_)

    assert largest_difference(picture, own_call(sdxl, request_)) <= TOLERANCE
    (plain,) = make(sdxl, replace(request_, guidance_rescale=None))
    assert largest_difference(picture, plain) > TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_a_crowd_with_other_values_does_not_change_a_picture(
    request: pytest.FixtureRequest, family: str
) -> None:
    pipeline = request.getfixturevalue(family)
    values = (None, 0.0, 0.3, 0.7, 1.0)
    crowd = [
        replace(TEXT, guidance_rescale=value, seed=index, num_inference_steps=4 + index)
        for index, value in enumerate(values)
    ]
    crowd.append(replace(TEXT, guidance_scale=1.0, seed=9))

    for wanted, picture in zip(crowd, make(pipeline, *crowd), strict=True):
        assert largest_difference(picture, own_call(pipeline, wanted)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_each_value_draws_another_picture(request: pytest.FixtureRequest, family: str) -> None:
    pipeline = request.getfixturevalue(family)

    plain, zero, half, full = make(
        pipeline, *(replace(TEXT, guidance_rescale=value) for value in (None, 0.0, 0.5, 1.0))
    )

    assert largest_difference(plain, zero) <= TOLERANCE
    assert largest_difference(plain, half) > TOLERANCE
    assert largest_difference(half, full) > TOLERANCE


def test_without_guidance_it_has_no_effect(demo: DiffusersPipeline) -> None:
    without = replace(TEXT, guidance_scale=1.0)

    rescaled, plain = make(demo, without, replace(without, guidance_rescale=None))

    assert largest_difference(rescaled, plain) <= TOLERANCE


def test_base_and_refiner_match_the_two_pipelines(
    pair: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(TEXT, scheduler="euler", denoising_end=0.5)
    for view in (type(pair.diffusers), StableDiffusionXLImg2ImgPipeline):
        monkeypatch.setattr(view, "__call__", rescaling(view.__call__))

    (picture,) = make(pair, wanted)

    assert largest_difference(picture, in_turn(pair, wanted)) <= TOLERANCE


def rescaling(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        return call(*arguments, **options, guidance_rescale=TEXT.guidance_rescale)

    return called


def test_it_is_supported_where_diffusers_takes_it(
    demo: DiffusersPipeline, sdxl: DiffusersPipeline, tmp_path: Path
) -> None:
    assert demo.profile.rescaled_tasks == ("text-to-image",)
    assert sdxl.profile.rescaled_tasks == ALL
    assert loaded(build_sd3(), tmp_path).profile.rescaled_tasks == ()
    assert model_metadata("m", sdxl.profile, Settings())["rescaled_tasks"] == list(ALL)
    inpainting = loaded(build_sd_inpainting(demo.diffusers), tmp_path)
    assert inpainting.profile.rescaled_tasks == ()


def test_a_unet_with_guidance_as_an_input_does_not_support_it(tmp_path: Path) -> None:
    pipeline = build_sdxl()
    pipeline.unet.register_to_config(time_cond_proj_dim=8)

    assert loaded(pipeline, tmp_path).profile.rescaled_tasks == ()


@pytest.mark.parametrize("build", [build_sd3, build_flux])
def test_another_family_refuses_it_by_its_name(
    build: Callable[[], DiffusionPipeline], tmp_path: Path
) -> None:
    reason = refusal(loaded(build(), tmp_path), guidance_rescale=0.7)

    assert reason == "this model's pipeline does not accept it"


def test_a_task_without_it_is_refused(demo: DiffusersPipeline) -> None:
    file = io.BytesIO()
    PICTURE.image.save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()

    reason = refusal(demo, image=image, guidance_rescale=0.7)

    assert reason == "not for image-to-image; this model supports it for text-to-image"


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_value_out_of_bounds_is_refused(demo: DiffusersPipeline, value: float) -> None:
    assert refusal(demo, guidance_rescale=value).endswith(" is not between 0 and 1")


def test_a_whole_call_gets_it_and_does_not_mix_values(sdxl: DiffusersPipeline) -> None:
    first = replace(TEXT, scheduler="default")
    requests = [first, replace(first, guidance_rescale=0.2, seed=4), replace(first, seed=5)]
    assert batch_key(requests[0]) == batch_key(requests[2]) != batch_key(requests[1])
    engine = WholeBatchEngine(sdxl, max_batch=4, max_queue_length=8)

    async def submit() -> list[Any]:
        return await asyncio.gather(*(engine.submit(one) for one in requests))

    try:
        results = asyncio.run(submit())
    finally:
        engine.close()
    for wanted, result in zip(requests, results, strict=True):
        expected = diffusers_own(sdxl, wanted)
        assert largest_difference(result.image, expected) <= TOLERANCE


def diffusers_own(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    view: Any = pipeline_for("text-to-image", pipeline.diffusers)
    picture: Image.Image = view(
        prompt=request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        guidance_rescale=request.guidance_rescale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return picture


def test_the_server_answers_with_the_value(client: httpx.Client) -> None:
    body = {"prompt": "a red star", "steps": 2, "guidance_rescale": 0.7}

    made = client.post(PREDICT, json=body, headers={"accept": "application/json"}).json()

    assert made["predictions"][0]["guidance_rescale"] == 0.7
    metadata = client.get(f"/v2/models/{MODEL_NAME}").json()
    assert metadata["rescaled_tasks"] == ["text-to-image"]
    assert "guidance_rescale" in {one["name"] for one in metadata["inputs"]}
