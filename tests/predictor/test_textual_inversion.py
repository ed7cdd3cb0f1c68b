"""Textual inversion embeddings: what diffusers draws with them, and files that do not load."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import GenerationFailedError
from predictor.loading.embedding_files import load_embeddings
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.textual_inversion import Embeddings
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings
from tests.predictor.drawing import make, own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import WIDTH, build_sd3, build_sdxl

REQUEST = GenerationRequest("a red circle in the style of moebius", "", 3, 64, 64, 6, 3.0, "unipc")
# Sums in another order may change a channel by this much, of 255.
TOLERANCE = 2
DEMO_WIDTH = 64


def random_vectors(seed: int, vectors: int, width: int) -> torch.Tensor:
    return 0.3 * torch.randn(vectors, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Embeddings for the demo model, three of which do not load."""
    folder = tmp_path_factory.mktemp("embeddings")
    broken = random_vectors(5, 2, DEMO_WIDTH)
    broken[1, 3] = torch.nan
    contents: dict[str, dict[str, torch.Tensor]] = {
        "Bad-Hands_v1.5": {"emb_params": random_vectors(1, 4, DEMO_WIDTH)},
        "broken": {"emb_params": broken},
        "for-sdxl": {"clip_l": torch.ones(1, DEMO_WIDTH), "clip_g": torch.ones(1, DEMO_WIDTH)},
        "moebius": {"<moebius>": random_vectors(2, 3, DEMO_WIDTH)},
        "one": {"<one>": random_vectors(3, 1, DEMO_WIDTH)[0]},
        "wide": {"emb_params": torch.ones(1, DEMO_WIDTH + 1)},
    }
    for name, tensors in contents.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "moebius.safetensors").read_bytes()[:-9])
    return {path.stem: path for path in sorted(folder.iterdir())}


def pipeline_of(demo_model: Path) -> Any:
    return load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers


def served(pipeline: Any, embeddings: Embeddings | None = None) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    profile = ModelProfile("r1", GenerationDefaults(64, 64, 3, 5.0, "unipc"), 8, ("unipc",))
    return DiffusersPipeline(pipeline, profile, embeddings=embeddings)


@pytest.fixture(scope="module")
def sd(demo_model: Path, files: dict[str, Path]) -> DiffusersPipeline:
    pipeline = pipeline_of(demo_model)
    return served(pipeline, load_embeddings(pipeline, files))


@pytest.fixture(scope="module")
def by_diffusers(demo_model: Path, files: dict[str, Path]) -> DiffusersPipeline:
    pipeline = pipeline_of(demo_model)
    for name in ("moebius", "one"):
        pipeline.load_textual_inversion(str(files[name]), token=name)
    return served(pipeline)


@pytest.mark.parametrize(
    "prompt", [REQUEST.prompt, "one star, moebius", "a one circle", "no embedding at all"]
)
def test_pictures_equal_those_of_diffusers(
    sd: DiffusersPipeline, by_diffusers: DiffusersPipeline, prompt: str
) -> None:
    request = replace(REQUEST, prompt=prompt, negative_prompt="one")

    expected = own_call(by_diffusers, request)

    assert largest_difference(make(sd, request)[0], expected) <= TOLERANCE


def test_the_embeddings_change_the_picture(
    sd: DiffusersPipeline, by_diffusers: DiffusersPipeline
) -> None:
    first_vector = replace(REQUEST, prompt="a star, one")

    assert largest_difference(*make(sd, REQUEST, replace(REQUEST, prompt="a red circle"))) > 9
    assert largest_difference(*make(sd, first_vector, replace(first_vector, prompt="a star"))) > 9


def separate_sdxl() -> Any:
    pipeline: Any = build_sdxl()
    pipeline.tokenizer_2 = copy.deepcopy(pipeline.tokenizer)
    return pipeline


def test_a_file_for_sdxl_has_vectors_for_both_text_encoders(tmp_path: Path) -> None:
    file = tmp_path / "web.safetensors"
    vectors = {"clip_l": random_vectors(1, 2, WIDTH), "clip_g": random_vectors(2, 2, WIDTH)}
    save_file({name: 30 * one for name, one in vectors.items()}, file)
    own, other = separate_sdxl(), separate_sdxl()
    own_side = served(own, load_embeddings(own, {"web": file}))
    tensors = load_file(file)
    for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
        other.load_textual_inversion(
            tensors[key],
            token="web",
            text_encoder=getattr(other, f"text_encoder{suffix}"),
            tokenizer=getattr(other, f"tokenizer{suffix}"),
        )
    request = replace(REQUEST, prompt="a web star")

    (picture,) = make(own_side, request)

    assert own_side.profile.embeddings == ("web",)
    assert largest_difference(picture, own_call(served(other), request)) <= TOLERANCE
    assert largest_difference(picture, make(own_side, replace(request, prompt="a star"))[0]) > 9


@torch.inference_mode()
def test_a_name_counts_in_any_case_and_with_all_its_vectors(
    sd: DiffusersPipeline, files: dict[str, Path]
) -> None:
    denoiser = denoiser_for(sd)
    texts = ["a star, Bad-Hands_v1.5", "a star, bad-hands_v1.5", "a (star, [Bad-hands_v1.5]:1.1)"]
    weighted = denoiser.begin(replace(REQUEST, prompt=texts[2], prompt_syntax="weighted"))

    exact, lower = (one[0] for one in denoiser.encode(texts[:2]))
    (in_brackets,) = denoiser.encode([texts[2]], weighted.encoders)
    ids = denoiser._token_ids["tokenizer"].batch(texts[:1]).ids[0]  # type: ignore[attr-defined]

    assert torch.equal(exact, lower)
    assert in_brackets[0].shape == exact.shape
    table = sd.diffusers.text_encoder.get_input_embeddings().weight
    vectors = load_file(files["Bad-Hands_v1.5"])["emb_params"]
    assert torch.equal(table[ids[4:8]], vectors.to(table.dtype))


def test_a_truncation_warning_counts_all_vectors(sd: DiffusersPipeline) -> None:
    fits = "moebius " * 10

    assert sd.warnings(replace(REQUEST, prompt=fits)) == ()
    (warning,) = sd.warnings(replace(REQUEST, prompt=f"{fits} circle"))
    assert "dropped: 'circle'" in warning


@pytest.mark.parametrize("name", ["broken", "cut", "for-sdxl", "wide"])
def test_a_file_that_does_not_load_fails_only_the_requests_that_name_it(
    sd: DiffusersPipeline, name: str
) -> None:
    fields = [
        {"prompt": f"a star, ({name.title()}:1.2)"},
        {"negative_prompt": name},
        {"prompt": f"a {name}er star"},
    ]

    *failed, picture = make(
        sd, *(replace(REQUEST, **one) for one in fields), return_exceptions=True
    )

    for error in failed:
        assert isinstance(error, GenerationFailedError)
        assert str(error) == f"embedding '{name}' does not load; the server's log has the cause"
    assert picture.size == (64, 64)


def test_the_log_has_the_cause(
    demo_model: Path, files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    word = {"a", "moebius_1", "Moebius", "moebius"}
    copies = dict.fromkeys(sorted(word, key=lambda one: (len(one), one)), files["moebius"])

    found = load_embeddings(pipeline_of(demo_model), files | copies)

    assert set(found.names) == files.keys() | word
    for cause in (
        "'broken' does not load: it contains NaN or infinity",
        "'wide' does not load: its vectors have 65 numbers, but those of the model 64",
        "'for-sdxl' does not load: the file must have one tensor, but it has 2",
        "'moebius_1' does not load: its name means a vector of another embedding",
        "'Moebius' does not load: its name means a vector of another embedding",
        "'a' does not load: its name is in the tokenizer's vocabulary",
        "'cut' does not load",
    ):
        assert cause in caplog.text


def test_other_families_ignore_them(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    found = load_embeddings(build_sd3(), files)

    assert found.names == ()
    found.check(["broken"])
    assert "StableDiffusion3Pipeline does not support embeddings" in caplog.text


def test_a_checkpoint_has_the_safetensors_in_its_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for name in ("b.safetensors", "a_v1.5.safetensors", "c.pt"):
        (folder / name).touch()
    checkpoint = Checkpoint(tmp_path, marker=None)  # type: ignore[arg-type]

    assert checkpoint.embeddings == {
        "a_v1.5": folder / "a_v1.5.safetensors",
        "b": folder / "b.safetensors",
    }
    assert Checkpoint(folder, marker=None).embeddings == {}  # type: ignore[arg-type]
    assert "embedding 'c.pt' is ignored: it is not a safetensors file" in caplog.text
