"""The preset of a model by GPU size, and settings that override it."""

from __future__ import annotations

import pytest
import torch

from modelstore import FileEntry, Marker
from predictor.loading.presets import (
    PRESETS,
    Footprint,
    footprint_of,
    least_restrictive,
    savings_of,
)
from predictor.pipelines.tuning import Savings, Tuning, tune
from predictor.settings import Settings
from tests.predictor.random_pipelines import build_sdxl

GB = 10**9
# Half precision: weights, largest component, decoding a native-size picture and the largest.
SD15 = Footprint(int(2.1 * GB), int(1.7 * GB), int(0.7 * GB), int(4 * GB))
SDXL = Footprint(int(6.9 * GB), int(5.1 * GB), int(5.4 * GB), int(8.1 * GB))
FLUX = Footprint(int(33.7 * GB), int(23.8 * GB), int(2.7 * GB), int(4 * GB))


@pytest.mark.parametrize(
    ("gigabytes", "footprint", "expected"),
    [
        (24, SD15, Savings()),
        (8, SD15, Savings(vae_slicing=True)),
        (4, SD15, Savings(vae_slicing=True, vae_tiling=True)),
        (80, SDXL, Savings()),
        (24, SDXL, Savings(vae_slicing=True)),
        (16, SDXL, Savings(vae_slicing=True, vae_tiling=True)),
        (12, SDXL, Savings(vae_slicing=True, vae_tiling=True, offload="model")),
        (8, SDXL, Savings(vae_slicing=True, vae_tiling=True, offload="model")),
        (6.5, SDXL, Savings(vae_slicing=True, vae_tiling=True, offload="sequential")),
        (80, FLUX, Savings()),
        (40, FLUX, Savings(vae_slicing=True, vae_tiling=True, offload="model")),
        (24, FLUX, Savings(vae_slicing=True, vae_tiling=True, offload="sequential")),
        # It fits with no preset: the last one applies, and diffusers raises the error.
        (1, FLUX, Savings(vae_slicing=True, vae_tiling=True, offload="sequential")),
    ],
)
def test_auto_chooses_the_fastest_preset_that_fits(
    gigabytes: float, footprint: Footprint, expected: Savings
) -> None:
    _, savings = savings_of("auto", int(gigabytes * GB), footprint)

    assert savings == expected


def test_the_log_formats_a_tuning_as_a_list_of_settings() -> None:
    saving = Savings(vae_slicing=True, offload="model")

    assert str(Tuning("12gb", saving, tf32=True)) == (
        "preset 12gb, attention sdpa, offload model, vae_slicing, tf32"
    )
    assert str(Tuning()) == "preset none, attention sdpa"


def test_less_memory_never_chooses_a_faster_preset() -> None:
    order = list(PRESETS)
    chosen = [least_restrictive(gigabytes * GB, SDXL) for gigabytes in range(80, 0, -1)]

    assert [order.index(name) for name in chosen] == sorted(order.index(name) for name in chosen)
    assert set(chosen) == {"80gb", "24gb", "16gb", "12gb", "8gb"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_named_preset_applies_with_any_amount_of_memory(name: str) -> None:
    assert savings_of(name, 80 * GB, FLUX) == (name, PRESETS[name])


def test_none_saves_nothing_with_any_amount_of_memory() -> None:
    assert savings_of("none", 1, FLUX) == ("none", Savings())


def test_a_cpu_never_offloads_and_saves_nothing_by_default() -> None:
    assert savings_of("auto", None, FLUX) == ("none", Savings())
    assert savings_of("8gb", None, FLUX) == ("8gb", Savings(vae_slicing=True, vae_tiling=True))


@pytest.mark.parametrize(
    ("setting", "preset", "expected"),
    [
        ({}, "8gb", PRESETS["8gb"]),
        ({"offload": "none"}, "8gb", Savings(vae_slicing=True, vae_tiling=True)),
        ({"offload": "model"}, "80gb", Savings(offload="model")),
        ({"vae_slicing": False}, "24gb", Savings()),
        ({"vae_slicing": True}, "80gb", Savings(vae_slicing=True)),
        ({"vae_tiling": False}, "16gb", Savings(vae_slicing=True)),
        ({"vae_tiling": True}, "80gb", Savings(vae_tiling=True)),
    ],
)
def test_a_setting_overrides_only_its_part_of_the_preset(
    setting: dict[str, object], preset: str, expected: Savings
) -> None:
    assert tune(Settings(**setting), preset, PRESETS[preset]).savings == expected


def test_the_settings_know_every_preset() -> None:
    schema = Settings.model_json_schema()["properties"]["memory_preset"]

    assert set(schema["enum"]) == {"auto", "none", *PRESETS}


def test_the_footprint_includes_the_weights_and_the_extra_networks() -> None:
    pipeline = build_sdxl()
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    sizes = [sum(one.numel() for one in part.parameters()) * 4 for part in parts]
    files = (
        FileEntry("refiner/unet/model.safetensors", 1000, ""),
        FileEntry("unet/model.safetensors", 7, ""),
        FileEntry("refiner/model_index.json", 9, ""),
    )
    marker = Marker("m", "s", "r", None, "", files)

    footprint = footprint_of(pipeline, marker, pixels=128 * 128, max_pixels=256 * 256)

    assert footprint.weights == sum(sizes) + 1000
    assert footprint.largest_part == max(sizes)
    assert footprint.decode_largest == 4 * footprint.decode > 0


def test_sdxl_decodes_in_float32_with_any_weights() -> None:
    whole, half = build_sdxl(), build_sdxl().to(torch.float16)
    marker = Marker("m", "s", "r", None, "", ())

    decode = [footprint_of(one, marker, 128 * 128, 128 * 128).decode for one in (whole, half)]

    assert decode[0] == decode[1]
