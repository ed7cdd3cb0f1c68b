"""Contradictory settings stop startup with one sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from demo.run import free_port
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError
from predictor.loading.contradictions import CONTRADICTIONS, Facts, check
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.tuning import Savings, Tuning
from predictor.settings import Settings
from tests.serving import ROOT

GPU = Facts(Tuning(), "cuda", "float16", has_xformers=True, denoiser="SomeNet", vae="SomeVAE")
CPU = replace(GPU, device="cpu", dtype="float32")
OFFLOADED = Savings(offload="model")

# One case per row of the table, in its order: the facts, and a part of the sentence.
CASES: list[tuple[Facts, str]] = [
    (replace(CPU, tuning=Tuning(attention="xformers")), "set attention=sdpa"),
    (replace(GPU, tuning=Tuning(attention="xformers"), has_xformers=False), "set attention=sdpa"),
    (replace(CPU, tuning=Tuning(savings=OFFLOADED)), "offload=model requires a GPU"),
    (replace(CPU, tuning=Tuning(tf32=True)), "set tf32=false"),
    (replace(CPU, dtype="float16"), "set dtype=auto"),
    (replace(GPU, tuning=Tuning("12gb", OFFLOADED, compile=True)), "memory_preset is 12gb"),
    (replace(GPU, tuning=Tuning("12gb", OFFLOADED), has_networks=True), "refiner or ControlNets"),
    (replace(GPU, tuning=Tuning(attention="sliced", compile=True)), "compile=false"),
    (replace(GPU, tuning=Tuning(attention="sliced", fused_qkv=True)), "override attention=sliced"),
    (replace(GPU, tuning=Tuning(fused_qkv=True), has_adapters=True), "set fused_qkv=false"),
    (replace(GPU, tuning=Tuning(compile=True), has_adapters=True), "set compile=false"),
    (replace(GPU, tuning=Tuning(compile=True), has_compiler=False), "APT_PACKAGES=g++"),
    (replace(GPU, compile_shapes="512x512"), "compile_shapes=512x512 requires compile=true"),
    (replace(GPU, tuning=Tuning(compile=True), can_compile=False), "set compile=false"),
    (replace(GPU, tuning=Tuning(attention="sliced"), can_slice_attention=False), "SomeNet"),
    (replace(GPU, tuning=Tuning(fused_qkv=True), can_fuse_qkv=False), "SomeNet"),
    (
        replace(GPU, tuning=Tuning(savings=Savings(vae_slicing=True)), can_slice_vae=False),
        "not supported by SomeVAE: set vae_slicing=false",
    ),
    (
        replace(GPU, tuning=Tuning(savings=Savings(vae_tiling=True)), can_tile_vae=False),
        "not supported by SomeVAE: set vae_tiling=false",
    ),
]


@pytest.mark.parametrize(("contradiction", "case"), list(zip(CONTRADICTIONS, CASES, strict=True)))
def test_each_contradiction_stops_startup(contradiction: Any, case: tuple[Facts, str]) -> None:
    facts, sentence = case

    assert [one for one in CONTRADICTIONS if one.holds(facts)] == [contradiction]
    with pytest.raises(ModelLoadError) as raised:
        check(facts)
    assert sentence in str(raised.value)
    assert "{" not in str(raised.value)
    assert "set " in str(raised.value)


@pytest.mark.parametrize(
    "facts",
    [
        GPU,
        CPU,
        replace(GPU, tuning=Tuning("8gb", Savings(True, True, "sequential"), fused_qkv=True)),
        replace(GPU, tuning=Tuning(channels_last=True, fused_qkv=True, tf32=True, compile=True)),
        replace(GPU, tuning=Tuning(attention="xformers", compile=True)),
        replace(CPU, tuning=Tuning(attention="sliced", channels_last=True)),
        replace(GPU, compile_shapes="64x64", has_graphs=True),
    ],
)
def test_compatible_settings_are_accepted(facts: Facts) -> None:
    check(facts)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"attention": "xformers"}, "attention=xformers requires a GPU"),
        ({"offload": "sequential"}, "offload=sequential requires a GPU"),
        ({"tf32": True}, "tf32=true"),
        ({"dtype": "float16"}, "dtype=float16"),
        ({"attention": "sliced", "compile": True}, "attention=sliced"),
        ({"attention": "sliced", "fused_qkv": True}, "fused_qkv=true"),
        ({"compile_shapes": "64x64,128x64"}, "compile_shapes=64x64,128x64"),
    ],
)
def test_the_settings_are_checked_before_the_weights_are_read(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", None)

    with pytest.raises(ModelLoadError, match=sentence):
        load_pipeline(Checkpoint.read(demo_model), Settings(device="cpu", **settings))


@pytest.mark.parametrize("setting", [{"fused_qkv": True}, {"compile": True}])
def test_the_adapters_of_the_model_are_found(
    demo_model: Path, tmp_path: Path, setting: dict[str, bool]
) -> None:
    folder = shutil.copytree(demo_model, tmp_path / "model")
    (folder / "adapters" / "pixel-art").mkdir(parents=True)

    with pytest.raises(ModelLoadError, match="the model's adapters"):
        load_pipeline(Checkpoint.read(folder), Settings(device="cpu", **setting))


def test_the_process_exits_with_status_1_and_the_sentence(demo_model: Path) -> None:
    command = [sys.executable, "-m", "predictor", f"--http_port={free_port()}"]
    command += [f"--model_dir={demo_model}", "--host=127.0.0.1", "--device=cpu", "--tf32=true"]

    ended = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "predictor: tf32=true requires a GPU, but the device is a CPU: set tf32=false"
    )
