"""``clip_skip``: the embeddings, and the pictures that diffusers makes from them."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image
from transformers import CLIPTextModel

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import InvalidRequestError
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.schedulers import make_scheduler
from predictor.pipelines.stable_diffusion import ClipSkip
from predictor.pipelines.stepwise import denoiser_for, max_clip_skip
from predictor.pipelines.whole import DiffusersPipeline
from predictor.protocol.model_metadata import model_metadata
from predictor.requests import (
    Adapter,
    GenerationDefaults,
    GenerationRequest,
    Limits,
    ModelProfile,
)
from predictor.settings import Settings
from tests.predictor.decoding import decode
from tests.predictor.drawing import make, own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_adapters import write_adapter
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.predictor.random_refiner import build_refiner
from tests.predictor.test_controlnet import own, steered, with_controlnets
from tests.predictor.test_refiner_pictures import in_turn
from tests.serving import PREDICT, picture_of

REQUEST = GenerationRequest("a red circle on a yellow background", "", 3, 64, 64, 6, 3.0, "unipc")
LAYERS = 4
# Sums in another order may change a channel by this much, of 255.
TOLERANCE = 2


@pytest.fixture(scope="module")
def sd(demo_model: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings())


@pytest.fixture(scope="module")
def sdxl() -> DiffusersPipeline:
    return served(build_sdxl())


@pytest.fixture(scope="module")
def deep_sd(sd: DiffusersPipeline) -> DiffusersPipeline:
    """The demo model under a text encoder with more layers, of random weights."""
    return served(copy.copy(sd.diffusers))


def build_deep_sdxl() -> Any:
    pipeline = build_sdxl()
    deepen(pipeline)
    return pipeline


def served(pipeline: Any) -> DiffusersPipeline:
    deepen(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(128, 128, 3, 5.0, "unipc")
    profile = ModelProfile("r1", defaults, 8, ("unipc", "euler"), max_clip_skip=LAYERS - 1)
    return DiffusersPipeline(pipeline, profile)


def deepen(pipeline: Any) -> None:
    """Text encoders of four layers, so that there is something to skip."""
    torch.manual_seed(1)
    for name in {"text_encoder", "text_encoder_2"} & pipeline.components.keys():
        encoder = getattr(pipeline, name)
        config = copy.deepcopy(encoder.config)
        config.num_hidden_layers = LAYERS
        setattr(pipeline, name, type(encoder)(config).eval())


def shortened(encoder: Any, skipped: int) -> CLIPTextModel:
    """A copy of a text encoder that lacks the last layers."""
    config = copy.deepcopy(encoder.config)
    config.num_hidden_layers -= skipped
    copied = CLIPTextModel(config).eval()
    copied.load_state_dict(getattr(encoder, "text_model", encoder).state_dict(), strict=False)
    return copied


def hidden(tokenizer: Any, encoder: Any, prompt: str) -> torch.Tensor:
    tokens = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    state: torch.Tensor = encoder(tokens.input_ids).last_hidden_state
    return state


def embedded(pipeline: Any, request: GenerationRequest) -> dict[str, torch.Tensor]:
    """The arguments of diffusers' call, from shortened text encoders and without ``clip_skip``."""
    skipped = request.clip_skip or 0
    if not hasattr(pipeline, "text_encoder_2"):
        plain, negative = pipeline.encode_prompt(
            request.prompt, "cpu", 1, True, request.negative_prompt
        )
        encoder = shortened(pipeline.text_encoder, skipped)
        embeddings = hidden(pipeline.tokenizer, encoder, request.prompt)
        assert plain.shape == embeddings.shape
        return {"prompt_embeds": embeddings, "negative_prompt_embeds": negative}
    _, negative, pooled, negative_pooled = pipeline.encode_prompt(
        request.prompt, device="cpu", negative_prompt=request.negative_prompt or None
    )
    parts = []
    for name in ("text_encoder", "text_encoder_2"):
        encoder = shortened(getattr(pipeline, name), skipped + 1)
        # SDXL reads the states before the final norm, and never the last layer.
        encoder.final_layer_norm = torch.nn.Identity()  # type: ignore[assignment]
        parts.append(hidden(pipeline.tokenizer, encoder, request.prompt))
    return {
        "prompt_embeds": torch.cat(parts, dim=-1),
        "negative_prompt_embeds": negative,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": negative_pooled,
    }


def arguments(pipeline: Any, request: GenerationRequest) -> dict[str, Any]:
    return {
        **embedded(pipeline, request),
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }


@torch.inference_mode()
def diffusers_call(loaded: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    view: Any = copy.copy(loaded.diffusers)
    view.scheduler = make_scheduler(request.scheduler, view.scheduler)
    image: Image.Image = view(**arguments(loaded.diffusers, request)).images[0]
    return image


def skips(loaded: DiffusersPipeline) -> range:
    most = max_clip_skip(loaded.diffusers)
    assert most is not None
    return range(1, most + 1)


@pytest.mark.parametrize("family", ["sd", "deep_sd", "sdxl"])
@torch.inference_mode()
def test_the_embeddings_are_those_of_an_encoder_without_the_last_layers(
    request: pytest.FixtureRequest, family: str
) -> None:
    loaded = request.getfixturevalue(family)
    denoiser = denoiser_for(loaded)
    (plain,) = denoiser.encode([REQUEST.prompt], denoiser.begin(REQUEST).encoders)

    for skipped in skips(loaded):
        skipping = replace(REQUEST, clip_skip=skipped)
        (found,) = denoiser.encode([REQUEST.prompt], denoiser.begin(skipping).encoders)
        expected = embedded(loaded.diffusers, skipping)

        assert torch.allclose(found[0], expected["prompt_embeds"][0], atol=1e-5)
        assert (found[0] - plain[0]).abs().max() > 0.01
        if "pooled_prompt_embeds" in expected:
            assert torch.allclose(found[1], expected["pooled_prompt_embeds"][0], atol=1e-5)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_pictures_alone_and_in_a_crowd_equal_diffusers(
    request: pytest.FixtureRequest, family: str
) -> None:
    loaded = request.getfixturevalue(family)
    crowd = [
        replace(REQUEST, clip_skip=1),
        replace(REQUEST, clip_skip=skips(loaded)[-1], negative_prompt="a star", seed=4),
        replace(REQUEST, clip_skip=1, guidance_scale=1.0, num_inference_steps=4),
        replace(REQUEST, clip_skip=1, negative_prompt=REQUEST.prompt, scheduler="euler"),
    ]

    alone = [make(loaded, one)[0] for one in crowd]
    *together, plain, zero = make(loaded, *crowd, REQUEST, replace(REQUEST, clip_skip=0))

    for one, lone, picture in zip(crowd, alone, together, strict=True):
        expected = diffusers_call(loaded, one)
        assert largest_difference(lone, expected) <= TOLERANCE
        assert largest_difference(picture, expected) <= TOLERANCE
    assert largest_difference(plain, own_call(loaded, REQUEST)) <= TOLERANCE
    assert largest_difference(zero, plain) <= TOLERANCE
    assert largest_difference(together[0], plain) > TOLERANCE


def test_requests_share_passes_and_not_embeddings(sd: DiffusersPipeline) -> None:
    denoiser = denoiser_for(sd)
    plain, skipping = (denoiser.begin(replace(REQUEST, clip_skip=skipped)) for skipped in (None, 1))

    assert skipping.kind == plain.kind
    assert skipping.encoders != plain.encoders
    assert skipping.negative_encoders == plain.negative_encoders == plain.encoders


def test_the_refiner_reads_all_layers() -> None:
    base = build_sdxl()
    deepen(base)
    refiner = build_refiner(base)
    refiner.set_progress_bar_config(disable=True)
    profile = ModelProfile("r1", GenerationDefaults(128, 128, 3, 5.0, "euler"), 8, ("euler",))
    pair = DiffusersPipeline(base, profile, refiner=DiffusersPipeline(refiner, profile))
    base.set_progress_bar_config(disable=True)
    request = replace(
        REQUEST, scheduler="euler", num_inference_steps=8, denoising_end=0.25, clip_skip=2
    )

    (picture,) = make(pair, request)
    (plain,) = make(pair, replace(request, clip_skip=None))

    with torch.inference_mode():
        generator = torch.Generator("cpu").manual_seed(request.seed)
        view = copy.copy(base)
        view.scheduler = make_scheduler("euler", base.scheduler)
        latents = view(
            **arguments(base, request) | {"generator": generator},
            denoising_end=0.25,
            output_type="latent",
        ).images
        last = copy.copy(refiner)
        last.scheduler = make_scheduler("euler", refiner.scheduler)
        expected = last(
            request.prompt,
            image=latents,
            num_inference_steps=8,
            guidance_scale=request.guidance_scale,
            denoising_start=0.25,
            generator=generator,
        ).images[0]
    assert largest_difference(picture, expected) <= TOLERANCE
    assert largest_difference(plain, in_turn(pair, replace(request, clip_skip=None))) <= TOLERANCE
    assert largest_difference(picture, plain) > TOLERANCE


def test_a_controlnet_reads_the_same_embeddings(demo_model: Path) -> None:
    loaded = with_controlnets(load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers)
    request = steered("canny", 0.7, clip_skip=1)
    assert request.controlnet is not None

    (picture,) = make(loaded, request)

    parts = dict(loaded.diffusers.components)
    parts["scheduler"] = make_scheduler(request.scheduler, parts["scheduler"])
    parts["controlnet"] = own(loaded.diffusers, "canny")
    view = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    view.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        expected = view(
            **arguments(loaded.diffusers, request),
            image=request.controlnet.image.image,
            controlnet_conditioning_scale=0.7,
        ).images[0]
    assert largest_difference(picture, expected) <= TOLERANCE


@pytest.mark.parametrize("build", [build_sd3, build_flux])
def test_other_families_refuse_it_with_the_reason(build: Callable[[], Any]) -> None:
    assert max_clip_skip(build()) is None
    profile = ModelProfile("r1", GenerationDefaults(64, 64, 4, 0.0, "default"), 8, ("default",))

    with pytest.raises(InvalidRequestError, match="clip_skip: only Stable Diffusion 1"):
        decode({"prompt": "a star", "clip_skip": 1}, Limits(Settings(), profile))
    answer = model_metadata("m", profile, Settings())
    assert "clip_skip" not in {one["name"] for one in answer["inputs"]}
    assert "max_clip_skip" not in answer["limits"]


def test_the_server_reports_it_and_its_bound(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/stable-diffusion").json()
    most = metadata["limits"]["max_clip_skip"]
    body = {"prompt": "a red star", "num_inference_steps": 4, "seed": 1}

    picture = picture_of(client.post(PREDICT, json=body | {"clip_skip": most}))
    answer = client.post(PREDICT, json={"instances": [body | {"clip_skip": 0}, body]}).json()
    refused = client.post(PREDICT, json=body | {"clip_skip": most + 1})

    assert {"name": "clip_skip", "datatype": "INT64", "shape": [-1]} in metadata["inputs"]
    assert json.loads(picture.info["parameters"])["clip_skip"] == most
    assert [one.get("clip_skip") for one in answer["predictions"]] == [0, None]
    assert refused.status_code == 400
    assert refused.json() == {"error": f"clip_skip: {most + 1} is not between 0 and {most}"}


@torch.inference_mode()
def test_adapters_of_a_text_encoder_apply_to_the_layers_that_are_left(tmp_path: Path) -> None:
    file = write_adapter(build_sdxl(), tmp_path / "style", seed=1, components=("text_encoder",))
    style = Adapter("style")
    denoiser = denoiser_for(
        DiffusersPipeline(
            build_deep_sdxl(),
            ModelProfile("r1", GenerationDefaults(128, 128, 3, 5.0, "unipc"), 8, ("unipc",)),
            adapter_files={"style": file},
        )
    )
    requests = [
        replace(REQUEST, adapters=adapters, clip_skip=skipped)
        for adapters in ((), (style,))
        for skipped in (None, 1)
    ]
    begun = [denoiser.begin(one) for one in requests]
    encoded = [denoiser.encode([REQUEST.prompt], one.encoders)[0][0] for one in begun]

    assert begun[3].encoders == (style, ClipSkip(1))
    assert begun[3].negative_encoders == (style,)
    for one, other in itertools.combinations(encoded, 2):
        assert (one - other).abs().max() > 0.01
    again = denoiser.encode([REQUEST.prompt], begun[1].encoders)[0][0]
    assert torch.equal(again, encoded[1])
