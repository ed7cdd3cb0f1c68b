"""Adapters over HTTP: published by the downloader, requested by name, rejected by name."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from playwright.sync_api import Browser
from safetensors.torch import save_file

from demo.run import MODEL
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.pipeline import load_pipeline
from predictor.settings import Settings
from tests.browser import Visit, browser, needs_chromium
from tests.predictor.pictures import largest_difference
from tests.predictor.random_adapters import write_adapter
from tests.predictor.test_refusals import refusal
from tests.serving import PREDICT, ROOT, Server, picture_of

__all__ = ["browser"]

EMBEDDINGS = ["broken", "moebius"]
NAMES = ["of-another-family", "pixel-art.v1", "sketch"]
PROMPT = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 6}


def write_embedding(source: Path, name: str, seed: int) -> dict[str, str]:
    """Write an embedding of three vectors; a broken one contains NaN."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, 64, generator=generator) / (0 if name == "broken" else 3)
    (source / name).mkdir()
    save_file({"emb_params": vectors}, source / name / "learned_embeds.safetensors")
    return {"name": name, "source": (source / name).as_uri()}


@pytest.fixture(scope="module")
def published(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with adapters, published by the downloader."""
    source = tmp_path_factory.mktemp("source")
    pipeline: DiffusionPipeline = load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers
    for seed, name in enumerate(NAMES[1:]):
        write_adapter(pipeline, source / name, seed=seed, components=("unet", "text_encoder"))
    (source / NAMES[0]).mkdir()
    foreign = {f"transformer.blocks.0.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    save_file(foreign, source / NAMES[0] / "foreign.safetensors")
    volume = tmp_path_factory.mktemp("volume")
    adapters = [{"name": name, "source": (source / name).as_uri()} for name in NAMES]
    spec = source / "models.yaml"
    embeddings = [write_embedding(source, name, seed) for seed, name in enumerate(EMBEDDINGS)]
    model = {
        "name": "styled",
        "source": MODEL.as_uri(),
        "adapters": adapters,
        "embeddings": embeddings,
    }
    # JSON is YAML too.
    spec.write_text(json.dumps({"models": [model]}))
    command = [sys.executable, "-m", "downloader", f"--spec={spec}", f"--target={volume}"]
    subprocess.run(command, cwd=ROOT, check=True)
    # A file that the downloader does not fetch is not served either.
    pickled = (volume / "styled").resolve() / "adapters" / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_lora_weights.bin").write_bytes(b"a pickle")
    return volume / "styled"


@pytest.fixture(scope="module")
def styled(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("server") / "log"
    with Server.started(published, log, a1111_api=True) as running:
        running.wait_until_ready()
        with httpx.Client(base_url=running.url, timeout=120) as client:
            yield client


def ask(client: httpx.Client, *adapters: dict[str, Any]) -> httpx.Response:
    return client.post(PREDICT, json={**PROMPT, "adapters": list(adapters)})


@pytest.mark.parametrize(
    ("adapters", "expected"),
    [
        ([{"name": "ghost"}], ["adapters[0].name", '"ghost"', ", ".join(NAMES)]),
        ([{"name": "sketch"}, {"name": "pickled"}], ["adapters[1].name", '"pickled"']),
        ([{"name": "../adapters/sketch"}], ["adapters[0].name"]),
        ([{"name": "sketch"}, {"name": "sketch"}], ["adapters[1].name", '"sketch"', "twice"]),
        ([{"name": "sketch", "scale": 5.1}], ["adapters[0].scale", "5.1", "-5", "5"]),
        ([{"name": "sketch", "scale": -6}], ["adapters[0].scale", "-6"]),
        ([{"name": "sketch", "scale": "1"}], ["adapters[0].scale", '"1"', "number"]),
        ([{"scale": 1}], ["adapters[0].name", "missing"]),
        ([{"name": "sketch", "weight": 1}], ["adapters[0].weight", "unknown"]),
        (["sketch"], ["adapters[0]", '"sketch"']),
    ],
    ids=str,
)
def test_an_invalid_adapter_is_a_400_that_names_the_field(
    styled: httpx.Client, adapters: list[Any], expected: list[str]
) -> None:
    response = styled.post(PREDICT, json={**PROMPT, "adapters": adapters})

    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert [word for word in expected if word not in error] == []


def test_a_model_without_adapters_says_so(client: httpx.Client) -> None:
    assert "the model has none" in refusal(ask(client, {"name": "sketch"}))


def test_the_metadata_of_a_picture_names_its_adapters(styled: httpx.Client) -> None:
    one, other = {"name": "pixel-art.v1", "scale": 0.5}, {"name": "sketch"}
    plain = picture_of(ask(styled))
    picture = picture_of(ask(styled, other, one))

    used = [one, {"name": "sketch", "scale": 1.0}]
    assert json.loads(picture.info["parameters"])["adapters"] == used
    assert "adapters" not in json.loads(plain.info["parameters"])
    assert largest_difference(plain, picture) > 2


def test_the_order_of_adapters_does_not_matter(styled: httpx.Client) -> None:
    one, other = {"name": "pixel-art.v1"}, {"name": "sketch"}

    pictures = [picture_of(ask(styled, *pair)) for pair in ((one, other), (other, one))]

    assert largest_difference(*pictures) == 0
    assert pictures[0].info["parameters"] == pictures[1].info["parameters"]


def test_an_adapter_that_does_not_load_is_named_and_the_server_continues(
    styled: httpx.Client,
) -> None:
    before = picture_of(ask(styled))

    error = refusal(ask(styled, {"name": "of-another-family"}), status=500)

    assert "adapter 'of-another-family' does not load" in error
    assert largest_difference(picture_of(ask(styled)), before) == 0


def test_embeddings_are_named_in_the_prompt(styled: httpx.Client) -> None:
    metadata = styled.get("/v2/models/stable-diffusion").json()

    def draw(prompt: str, **fields: str) -> httpx.Response:
        return styled.post(PREDICT, json=PROMPT | {"prompt": prompt} | fields)

    named, other = (picture_of(draw(f"a red circle, {name}")) for name in ("moebius", "hokusai"))
    weighted = picture_of(draw("a red circle, (moebius:1.0)", prompt_syntax="weighted"))
    failed = refusal(draw("a red circle, broken"), status=500)

    assert metadata["embeddings"] == EMBEDDINGS
    assert largest_difference(named, other) > 9
    assert largest_difference(named, weighted) == 0
    assert failed == "embedding 'broken' does not load; the server's log has the cause"


def test_a_tag_in_a_prompt_of_a1111_names_an_adapter(styled: httpx.Client) -> None:
    expected = picture_of(ask(styled, {"name": "sketch", "scale": 0.5}))
    prompt = f"{PROMPT['prompt']} <lora:sketch:0.5>"
    fields = {"prompt": prompt, "seed": PROMPT["seed"], "steps": PROMPT["num_inference_steps"]}

    answer = styled.post("/sdapi/v1/txt2img", json=fields).raise_for_status().json()
    listed = styled.get("/sdapi/v1/loras").json()

    picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert largest_difference(picture, expected) == 0
    assert json.loads(answer["info"])["infotexts"][0].startswith(prompt)
    assert [(one["name"], one["path"]) for one in listed] == [(name, name) for name in NAMES]


def test_openais_client_names_an_adapter(styled: httpx.Client) -> None:
    expected = picture_of(ask(styled, {"name": "sketch", "scale": 0.5}))
    fields = {name: value for name, value in PROMPT.items() if name != "prompt"}
    fields["adapters"] = [{"name": "sketch", "scale": 0.5}]

    url = str(styled.base_url).rstrip("/") + "/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        answer = client.images.generate(prompt=str(PROMPT["prompt"]), extra_body=fields)

    (image,) = answer.data or ()
    picture = Image.open(io.BytesIO(base64.b64decode(image.b64_json or "")))
    assert largest_difference(picture, expected) == 0


@needs_chromium
def test_the_page_draws_with_adapters(browser: Browser, styled: httpx.Client) -> None:
    expected = ask(styled, {"name": "sketch", "scale": 0.5}).content

    with Visit.started(browser, str(styled.base_url), PROMPT) as visit:
        visit.wait_until_described()
        visit.page.get_by_text("Adapters (LoRA)").click()
        visit.control("sketch").check()
        visit.control("Scale of sketch").fill("0.5")
        visit.draw(1)

        assert visit.newest_file() == expected
