"""Weighted and long prompts: the embeddings, the pictures, and how requests share passes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from demo.judge import look_at
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.denoising import Denoising
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.schedulers import make_scheduler
from predictor.pipelines.stable_diffusion import MAX_CHUNKS, ClipSkip, Kind, WeightedPrompts
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings
from tests.predictor.drawing import make
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import build_sdxl
from tests.predictor.random_refiner import build_refiner
from tests.serving import PREDICT

PLAIN = GenerationRequest("a red circle on a yellow background", "", 3, 64, 64, 6, 3.0, "unipc")
WEIGHTED = replace(PLAIN, prompt_syntax="weighted")
# Sums in another order may change a channel by this much, of 255.
TOLERANCE = 2
# Words that the demo model draws as nothing in particular.
FILLER = "a background, "


@pytest.fixture(scope="module")
def sd(demo_model: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings())


@pytest.fixture(scope="module")
def sdxl() -> DiffusersPipeline:
    return served(build_sdxl())


def served(pipeline: Any, refiner: Any = None) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    profile = ModelProfile("r1", GenerationDefaults(128, 128, 3, 5.0, "unipc"), 8, ("unipc",))
    return DiffusersPipeline(
        pipeline, profile, refiner=DiffusersPipeline(refiner, profile) if refiner else None
    )


class Reference:
    """ComfyUI's formula over the text encoders of a pipeline, one chunk of tokens at a time."""

    def __init__(self, pipeline: Any) -> None:
        self._tokenizer = pipeline.tokenizer
        self._encoders = [
            encoder
            for name in ("text_encoder", "text_encoder_2")
            if (encoder := pipeline.components.get(name)) is not None
        ]
        self._reads_last = len(self._encoders) == 1

    def embeddings(self, *chunks: list[tuple[str, float]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The embeddings of all chunks, and the pooled output of the first."""
        joined = torch.cat([self._chunk(chunk) for chunk in chunks], dim=1)
        pooled = self._encoders[-1](self._row(chunks[0])[0])[0]
        return joined, pooled

    def _chunk(self, parts: list[tuple[str, float]]) -> torch.Tensor:
        row, weights = self._row(parts)
        empty, _ = self._row([])
        states, at_zero = (
            torch.cat([self._states(encoder, one) for encoder in self._encoders], dim=-1)
            for one in (row, empty)
        )
        return at_zero + weights.view(1, -1, 1) * (states - at_zero)

    def _states(self, encoder: Any, row: torch.Tensor) -> torch.Tensor:
        output = encoder(row, output_hidden_states=True)
        state: torch.Tensor = output[0] if self._reads_last else output.hidden_states[-2]
        return state

    def _row(self, parts: list[tuple[str, float]]) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self._tokenizer("").input_ids
        ids, weights = [start], [1.0]
        for text, weight in parts:
            own = self._tokenizer(text, add_special_tokens=False).input_ids
            ids += own
            weights += [weight] * len(own)
        window = self._tokenizer.model_max_length
        ids += [end] + [self._tokenizer.pad_token_id] * (window - len(ids) - 1)
        return torch.tensor([ids]), torch.tensor(weights + [1.0] * (window - len(weights)))


def encoded(loaded: DiffusersPipeline, request: GenerationRequest) -> tuple[torch.Tensor, ...]:
    """What the denoiser makes of the prompt."""
    denoiser = denoiser_for(loaded)
    (found,) = denoiser.encode([request.prompt], denoiser.begin(request).encoders)
    return found


@torch.inference_mode()
def drawn(loaded: DiffusersPipeline, request: GenerationRequest, **embeddings: Any) -> Image.Image:
    """The picture of diffusers' call with these embeddings."""
    view: Any = copy.copy(loaded.diffusers)
    view.scheduler = make_scheduler(request.scheduler, view.scheduler)
    image: Image.Image = view(
        **embeddings,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return image


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("negative", ["", "a (blue:1.0) star"])
def test_weights_of_one_equal_the_plain_picture_exactly(
    request: pytest.FixtureRequest, family: str, negative: str
) -> None:
    loaded = request.getfixturevalue(family)
    plain = replace(PLAIN, negative_prompt=negative.replace("(", "").replace(":1.0)", ""))
    prompt = "a (red:1.0) ([circle]) on a ((yellow):0.90909090909090909) background"
    weighted = replace(WEIGHTED, prompt=prompt, negative_prompt=negative)

    assert largest_difference(make(loaded, plain)[0], make(loaded, weighted)[0]) == 0


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@torch.inference_mode()
def test_a_weight_moves_the_embedding_away_from_the_empty_prompt(
    request: pytest.FixtureRequest, family: str
) -> None:
    loaded = request.getfixturevalue(family)
    reference = Reference(loaded.diffusers)
    text = "a (red:1.5) circle, [black] BREAK a (star:-0.5)"

    embeddings, *pooled = encoded(loaded, replace(WEIGHTED, prompt=text))

    expected, expected_pooled = reference.embeddings(
        [("a ", 1), ("red", 1.5), (" circle, ", 1), ("black", 1 / 1.1)], [("a ", 1), ("star", -0.5)]
    )
    assert torch.allclose(embeddings, expected[0], atol=1e-5)
    assert all(torch.allclose(one, expected_pooled[0], atol=1e-5) for one in pooled)


@pytest.mark.parametrize(
    ("prompt", "token", "start", "total"),
    [
        # compel 2.5.1: "a red circle on a (blue)1.3 background", and so on.
        ("a red circle on a (blue:1.3) background", 6, [-1.4429, -0.25406, 1.99652], 1599.508),
        ("a red circle on a (blue:2.0) background", 6, [-2.20695, 2.01698, 3.13484], 1634.579),
        ("(a red circle:1.5) on a blue background", 2, [-1.38966, 4.19343, 0.87679], 1655.054),
    ],
)
@torch.inference_mode()
def test_weights_above_one_equal_those_of_compel(
    sd: DiffusersPipeline, prompt: str, token: int, start: list[float], total: float
) -> None:
    (embeddings,) = encoded(sd, replace(WEIGHTED, prompt=prompt))

    assert embeddings[token, :3].tolist() == pytest.approx(start, abs=1e-4)
    assert float(embeddings.abs().sum()) == pytest.approx(total, abs=0.05)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_pictures_alone_and_in_a_crowd_equal_diffusers_from_the_same_embeddings(
    request: pytest.FixtureRequest, family: str
) -> None:
    loaded = request.getfixturevalue(family)
    reference = Reference(loaded.diffusers)
    long = replace(WEIGHTED, prompt="a (red:1.5) circle BREAK a star", negative_prompt="(blue:1.2)")
    short = replace(WEIGHTED, prompt="a (red:1.5) circle", negative_prompt="a BREAK b BREAK c")
    crowd = [long, short, replace(short, guidance_scale=1.0), replace(PLAIN, seed=8)]

    alone = [make(loaded, one)[0] for one in crowd]
    together = make(loaded, *crowd)

    for lone, picture in zip(alone, together, strict=True):
        assert largest_difference(lone, picture) <= TOLERANCE
    with torch.inference_mode():
        red = [("a ", 1.0), ("red", 1.5), (" circle", 1.0)]
        both = [
            (long, reference.embeddings(red, [("a star", 1)]), [[("blue", 1.2)], []]),
            (short, reference.embeddings(red, [], []), [[(one, 1.0)] for one in "abc"]),
        ]
    for index, (one, (embeddings, pooled), negative) in enumerate(both):
        with torch.inference_mode():
            negative_embeddings, negative_pooled = reference.embeddings(*negative)
        options = {"prompt_embeds": embeddings, "negative_prompt_embeds": negative_embeddings}
        if family == "sdxl":
            options |= {
                "pooled_prompt_embeds": pooled,
                "negative_pooled_prompt_embeds": negative_pooled,
            }
        assert largest_difference(alone[index], drawn(loaded, one, **options)) <= TOLERANCE


def test_requests_share_passes_with_those_of_equally_long_prompts(sd: DiffusersPipeline) -> None:
    denoiser = denoiser_for(sd)

    def begun(prompt: str, negative_prompt: str = "", **fields: Any) -> Denoising:
        changed = replace(WEIGHTED, prompt=prompt, negative_prompt=negative_prompt, **fields)
        return denoiser.begin(changed)

    one, two = begun("a (star:2)"), begun("a star BREAK a circle")

    assert one.kind == denoiser.begin(PLAIN).kind == Kind()
    assert two.kind == begun("a star", "a BREAK b").kind == Kind(chunks=2)
    assert begun("a star", "a BREAK b", guidance_scale=1.0).kind == one.kind
    assert two.encoders == two.negative_encoders == (WeightedPrompts(2),)
    skipping = denoiser.begin(replace(PLAIN, clip_skip=1))
    assert skipping.encoders == (ClipSkip(1),) != one.encoders


def test_a_long_prompt_is_split_after_a_comma_near_the_end(sd: DiffusersPipeline) -> None:
    denoiser: Any = denoiser_for(sd)
    tokens = denoiser._token_ids["tokenizer"]
    word = "a "

    def starts(text: str) -> list[int]:
        """Where in the prompt each chunk but the first begins, in tokens."""
        mask = tokens.batch([text], tokens.count(text)).mask
        lengths = (mask.sum(dim=1) - 2).tolist()
        return [sum(lengths[: index + 1]) for index in range(len(lengths) - 1)]

    size = tokens.tokens_per_chunk
    assert starts(word * size) == []
    assert starts(word * (size + 1)) == [size]
    assert starts(word * (size - 5) + ", " + word * 9) == [size - 4]
    assert starts(word * (size - 20) + ", " + word * 30) == [size - 19]
    assert starts(word * (size - 21) + ", " + word * 30) == [size]
    assert starts("BREAK a BREAK BREAK b BREAK") == [1]


def test_a_colour_after_150_tokens_is_drawn(sd: DiffusersPipeline) -> None:
    scene = "a green circle on a black background"
    prompt = FILLER * 50 + scene
    tokens = len(sd.diffusers.tokenizer(FILLER * 50, add_special_tokens=False).input_ids)
    assert tokens >= 150

    one = replace(WEIGHTED, guidance_scale=2.0, num_inference_steps=12)
    weighted = [replace(one, prompt=prompt, seed=seed) for seed in (1, 2)]
    pictures = make(sd, *weighted, replace(PLAIN, prompt=prompt))

    assert [look_at(one).colour for one in pictures[:2]] == ["green"] * 2
    assert look_at(pictures[2]).colour != "green"


@torch.inference_mode()
def test_the_refiner_reads_the_same_weights() -> None:
    base = build_sdxl()
    pair = served(base, build_refiner(base))
    denoiser = denoiser_for(pair)
    refined = replace(WEIGHTED, denoising_end=0.5, prompt="a (red:1.5) circle BREAK a star")
    begun = denoiser.begin(refined)

    base_expert, refiner = begun.experts
    (found,) = denoiser.encode([refined.prompt], refiner.encoders)

    (of_base,) = denoiser.encode([refined.prompt], base_expert.encoders)
    width = found[0].shape[-1]
    # The refiner has only the second text encoder, and shares it with the base.
    assert torch.allclose(found[0], of_base[0][:, -width:], atol=1e-5)
    assert [one.kind for one in begun.experts] == [Kind(chunks=2), Kind("refiner", chunks=2)]
    plain, same = (make(pair, replace(one, denoising_end=0.5))[0] for one in (PLAIN, WEIGHTED))
    assert largest_difference(plain, same) == 0


def test_the_server_takes_long_prompts_without_a_warning_up_to_a_bound(
    client: httpx.Client,
) -> None:
    long = "a red circle, " * 12
    body = {"seed": 1, "num_inference_steps": 2, "prompt_syntax": "weighted"}

    def ask(prompt: str, **fields: str) -> httpx.Response:
        return client.post(PREDICT, json=body | {"prompt": prompt} | fields)

    weighted, plain = ask(long), ask(long, prompt_syntax="plain")
    refused = [ask("a " * 500), ask("a star", negative_prompt="a BREAK " * (MAX_CHUNKS + 1))]
    too_heavy = ask("a (star:11)")

    assert (weighted.status_code, plain.status_code) == (200, 200)
    assert "x-warning" not in weighted.headers
    assert "x-warning" in plain.headers
    assert weighted.content != plain.content
    assert [one.status_code for one in (*refused, too_heavy)] == [400, 400, 400]
    assert refused[0].json() == {
        "error": f"prompt: takes 17 chunks of 30 tokens, at most {MAX_CHUNKS}"
    }
    assert refused[1].json()["error"].startswith(f"negative_prompt: takes {MAX_CHUNKS + 1} chunks")
    assert too_heavy.json() == {
        "error": 'prompt: the weight 11 of "star" is not between -10 and 10'
    }
    metadata = client.get("/v2/models/stable-diffusion").json()
    assert {"name": "prompt_syntax", "datatype": "BYTES", "shape": [-1]} in metadata["inputs"]
    unknown = ask("a star", prompt_syntax="heavy").json()["error"]
    assert unknown == 'prompt_syntax: must be one of plain, weighted, not "heavy"'
