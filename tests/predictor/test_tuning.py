"""The effect of each speed and memory setting on the loaded pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    FusedJointAttnProcessor2_0,
    JointAttnProcessor2_0,
    SlicedAttnProcessor,
)

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError
from predictor.loading.apply import apply_tuning, denoiser_of
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.tuning import Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings
from tests.downloader.volume import download
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl

BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sdxl": build_sdxl,
    "sd3": build_sd3,
    "flux": build_flux,
}
UNETS = ("sd", "sdxl")
TRANSFORMERS = ("sd3", "flux")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> dict[str, Path]:
    volume = tmp_path_factory.mktemp("families")
    for name, build in BUILDERS.items():
        build().save_pretrained(volume / "sources" / name)
        download(volume / "sources" / name, volume, name=name)
    return {"sd": demo_model} | {name: volume / name for name in BUILDERS}


@pytest.fixture
def load(folders: dict[str, Path]) -> Callable[..., DiffusersPipeline]:
    def loaded(family: str, **settings: Any) -> DiffusersPipeline:
        return load_pipeline(Checkpoint.read(folders[family]), Settings(device="cpu", **settings))

    return loaded


def processors(pipeline: DiffusersPipeline) -> set[type]:
    return {type(one) for one in denoiser_of(pipeline.diffusers).attn_processors.values()}


def picture_of(pipeline: DiffusersPipeline) -> Any:
    request = replace(pipeline.profile.default_request("a red circle"), num_inference_steps=3)
    (result,) = pipeline.generate([request], lambda step, steps: None)
    return result.image


@pytest.mark.parametrize("family", [*UNETS, *TRANSFORMERS])
def test_the_defaults_save_no_memory(family: str, load: Callable[..., DiffusersPipeline]) -> None:
    loaded = load(family)

    assert loaded.tuning == Tuning()
    assert (loaded.diffusers.vae.use_slicing, loaded.diffusers.vae.use_tiling) == (False, False)
    assert loaded.device == torch.device("cpu")


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
@pytest.mark.parametrize(
    ("family", "processor"),
    [("sd", AttnProcessor2_0), ("sdxl", AttnProcessor2_0), ("sd3", JointAttnProcessor2_0)],
)
def test_the_default_attention_is_pytorchs(
    family: str, processor: type, attention: str, load: Callable[..., DiffusersPipeline]
) -> None:
    assert processors(load(family, attention=attention)) == {processor}


@pytest.mark.parametrize("family", UNETS)
def test_sliced_attention(family: str, load: Callable[..., DiffusersPipeline]) -> None:
    loaded = load(family, attention="sliced")

    assert processors(loaded) == {SlicedAttnProcessor}
    slices = {one.slice_size for one in loaded.diffusers.unet.attn_processors.values()}
    assert slices == {1}
    assert largest_difference(picture_of(loaded), picture_of(load(family))) <= 2


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_does_not_support_sliced_attention(
    family: str, load: Callable[..., DiffusersPipeline]
) -> None:
    with pytest.raises(ModelLoadError, match=r"not supported by \w*Transformer2DModel"):
        load(family, attention="sliced")


@pytest.mark.parametrize("family", [*UNETS, *TRANSFORMERS])
def test_fused_qkv(family: str, load: Callable[..., DiffusersPipeline]) -> None:
    loaded = load(family, fused_qkv=True)

    modules = list(denoiser_of(loaded.diffusers).modules())
    fused = [one for one in modules if getattr(one, "fused_projections", False)]
    assert fused
    assert len(fused) == len([one for one in modules if hasattr(one, "to_q")])
    if family != "flux":
        assert processors(loaded) <= {FusedAttnProcessor2_0, FusedJointAttnProcessor2_0}
    assert largest_difference(picture_of(loaded), picture_of(load(family))) <= 2


@pytest.mark.parametrize("setting", ["vae_slicing", "vae_tiling"])
@pytest.mark.parametrize("family", [*UNETS, *TRANSFORMERS])
def test_saving_in_the_vae(
    family: str, setting: str, load: Callable[..., DiffusersPipeline]
) -> None:
    vae = load(family, **{setting: True}).diffusers.vae

    assert vae.use_slicing == (setting == "vae_slicing")
    assert vae.use_tiling == (setting == "vae_tiling")


def test_a_preset_reaches_the_pipeline_and_a_setting_overrides_it(
    load: Callable[..., DiffusersPipeline],
) -> None:
    loaded = load("sd", memory_preset="8gb", vae_slicing=False)

    assert (loaded.diffusers.vae.use_slicing, loaded.diffusers.vae.use_tiling) == (False, True)
    assert loaded.tuning.preset == "8gb"


@pytest.mark.parametrize("family", [*UNETS, *TRANSFORMERS])
def test_channels_last(family: str, load: Callable[..., DiffusersPipeline]) -> None:
    pipeline = load(family, channels_last=True).diffusers

    kernels = [
        weight
        for part in (denoiser_of(pipeline), pipeline.vae)
        for weight in part.parameters()
        if weight.dim() == 4 and weight.shape[1] > 1 and weight.shape[2] > 1
    ]
    assert kernels
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in kernels)


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("matmul_precision")
def test_tf32(folders: dict[str, Path]) -> None:
    # It requires a GPU, so the test cannot start a server with it; the switch is torch's own.
    pipeline = DiffusionPipeline.from_pretrained(folders["sdxl"])

    apply_tuning(pipeline, Tuning(), torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"
    apply_tuning(pipeline, Tuning(tf32=True), torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_dtype(dtype: str, expected: str, load: Callable[..., DiffusersPipeline]) -> None:
    pipeline = load("sd", dtype=dtype).diffusers

    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {getattr(torch, expected)}


def test_xformers_is_enabled_in_every_component(folders: dict[str, Path]) -> None:
    """Without a GPU, diffusers gets only as far as xformers' own error."""
    pipeline = DiffusionPipeline.from_pretrained(folders["sdxl"])

    with pytest.raises((ModuleNotFoundError, ValueError), match="xformers"):
        apply_tuning(pipeline, Tuning(attention="xformers"), torch.device("cpu"))
