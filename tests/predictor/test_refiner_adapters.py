"""An adapter changes only the base, even if the refiner shares components with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from predictor.pipelines.refiner import ENCODERS
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import Adapter, GenerationDefaults, ModelProfile
from tests.predictor.random_adapters import write_adapter
from tests.predictor.random_pipelines import build_sdxl
from tests.predictor.random_refiner import build_refiner
from tests.predictor.test_refiner_pictures import REQUEST

PROFILE = ModelProfile(
    "r1", GenerationDefaults(128, 128, 3, 5.0, "unipc", 0.8), 8, ("euler",), has_refiner=True
)


@torch.inference_mode()
def test_the_refiner_encodes_the_prompt_without_adapters(tmp_path: Path) -> None:
    style = write_adapter(
        build_sdxl(), tmp_path / "style", seed=1, components=("unet", "text_encoder_2")
    )
    base = build_sdxl()
    refiner = build_refiner(base)
    refiner.text_encoder_2 = base.text_encoder_2
    denoiser = denoiser_for(
        DiffusersPipeline(
            base,
            PROFILE,
            adapter_files={"style": style},
            refiner=DiffusersPipeline(refiner, PROFILE),
        )
    )
    styled = denoiser.begin(replace(REQUEST, adapters=(Adapter("style"),)))
    prompt = [REQUEST.prompt]

    before, plain = denoiser.encode(prompt, ENCODERS)[0], denoiser.encode(prompt, ())[0]
    adapted = denoiser.encode(prompt, styled.encoders)[0]
    after = denoiser.encode(prompt, ENCODERS)[0]

    assert [expert.encoders for expert in styled.experts] == [(Adapter("style"),), ENCODERS]
    assert (adapted[0] - plain[0]).abs().max() > 0.1
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
