"""Pictures with LoRA adapters match those of diffusers' own calls, in both engines."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.capacity import Capacity
from predictor.engine.interfaces import Engine
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.schedulers import OWN
from predictor.pipelines.stepwise import denoiser_for, supports
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import Adapter, GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings
from tests.predictor.drawing import submit_all
from tests.predictor.pictures import largest_difference
from tests.predictor.random_adapters import as_kohya, write_adapter
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl

REQUEST = GenerationRequest("a red circle on a yellow background", "", 3, 64, 64, 4, 3.0, OWN)
# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2

ALL = Adapter("pixel-art.v1.0", 0.8)
DENOISER = Adapter("keys", -0.5)
WORDS = Adapter("words", 1.2)
SETS = [(), (ALL,), (ALL, DENOISER), (WORDS,), (replace(ALL, scale=0.3),)]


@dataclass
class Family:
    """A pipeline and its adapters."""

    build: Callable[[], DiffusionPipeline]
    files: Mapping[str, Path]

    def served(self, **options: Any) -> DiffusersPipeline:
        return _wrapped(self.build(), self.files, **options)

    def reference(self, adapters: tuple[Adapter, ...]) -> DiffusersPipeline:
        """Return diffusers' own pipeline with the adapters permanently active."""
        pipeline = self.build()
        names = [f"number_{index}" for index in range(len(adapters))]
        with warnings.catch_warnings():
            # peft warns about the second adapter.
            warnings.simplefilter("ignore", UserWarning)
            for name, adapter in zip(names, adapters, strict=True):
                pipeline.load_lora_weights(self.files[adapter.name], adapter_name=name)
        if adapters:
            pipeline.set_adapters(names, [adapter.scale for adapter in adapters])
        return _wrapped(pipeline, {})


def _wrapped(pipeline: DiffusionPipeline, files: Mapping[str, Path]) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    profile = ModelProfile("r1", GenerationDefaults(64, 64, 4, 3.0, OWN), 8, (OWN,))
    return DiffusersPipeline(pipeline, profile, adapter_files=files)


DENOISERS = {"demo": "unet", "sdxl": "unet", "sd3": "transformer", "flux": "transformer"}
ENCODERS = {
    "demo": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd3": ("text_encoder", "text_encoder_2"),
    "flux": ("text_encoder",),
}
BUILDERS = {"sdxl": build_sdxl, "sd3": build_sd3, "flux": build_flux}


@pytest.fixture(scope="module")
def demo_pipeline(demo_model: Path) -> DiffusionPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers


@pytest.fixture(scope="module", params=DENOISERS)
def family(
    request: pytest.FixtureRequest,
    demo_pipeline: DiffusionPipeline,
    tmp_path_factory: pytest.TempPathFactory,
) -> Family:
    name = request.param
    build = BUILDERS.get(name, lambda: copy.deepcopy(demo_pipeline))
    folder = tmp_path_factory.mktemp(name)
    denoiser, encoders = DENOISERS[name], ENCODERS[name]
    parts = {ALL.name: (denoiser, *encoders), DENOISER.name: (denoiser,), WORDS.name: encoders}
    files = {
        adapter: write_adapter(build(), folder / adapter, seed=seed, components=components)
        for seed, (adapter, components) in enumerate(parts.items())
    }
    return Family(build, files)


def engine_over(pipeline: DiffusersPipeline) -> Engine:
    if supports(pipeline.diffusers):
        return StepEngine(denoiser_for(pipeline), Capacity(32, 16 * 16, 1.0), max_queue_length=64)
    return WholeBatchEngine(pipeline, max_batch=4, max_queue_length=64)


def own_call(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    (result,) = pipeline.generate([replace(request, adapters=())], lambda step, steps: None)
    return result.image


def test_each_set_of_adapters_matches_diffusers_alone_and_in_a_batch(family: Family) -> None:
    # A different prompt, so that the batch's is not encoded before the last adapter is loaded.
    crowded = replace(REQUEST, prompt="a blue star on a white background")
    alone, together = {}, {}
    for adapters in SETS:
        reference = family.reference(adapters)
        alone[adapters] = own_call(reference, REQUEST)
        together[adapters] = own_call(reference, crowded)
    engine = engine_over(family.served())
    try:
        for adapters in SETS:
            (picture,) = submit_all(engine, replace(REQUEST, adapters=adapters))
            assert largest_difference(picture, alone[adapters]) <= TOLERANCE, adapters
        batch = [replace(crowded, adapters=one) for one in SETS for _ in range(2)]
        for request, picture in zip(batch, submit_all(engine, *batch), strict=True):
            assert largest_difference(picture, together[request.adapters]) <= TOLERANCE
    finally:
        engine.close()
    # Each set must give a different picture, or the comparison means nothing.
    for one, other in itertools.combinations(SETS, 2):
        assert largest_difference(alone[one], alone[other]) > 2 * TOLERANCE, (one, other)


def test_loaded_adapters_do_not_change_a_picture_without_adapters(family: Family) -> None:
    never = engine_over(family.served())
    engine = engine_over(family.served())
    try:
        for index, adapters in enumerate(SETS):
            # A new engine each time, because an engine caches the encoded prompts.
            plain = replace(REQUEST, prompt=f"{REQUEST.prompt} {'star ' * index}")
            (expected,) = submit_all(never, plain)
            submit_all(engine, replace(REQUEST, adapters=adapters))
            (after,) = submit_all(engine, plain)
            assert largest_difference(after, expected) == 0, adapters
    finally:
        never.close()
        engine.close()


def test_scale_0_has_no_effect_and_a_larger_scale_has_more(family: Family) -> None:
    engine = engine_over(family.served())
    try:
        plain, *scaled = submit_all(
            engine,
            REQUEST,
            *(replace(REQUEST, adapters=(replace(ALL, scale=one),)) for one in (0, 0.02, 0.1)),
        )
    finally:
        engine.close()

    nothing, little, more = (_distance(plain, one) for one in scaled)
    assert largest_difference(plain, scaled[0]) <= TOLERANCE
    assert nothing < little < more


def _distance(one: Image.Image, other: Image.Image) -> float:
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(one.tobytes())


def test_a_file_from_kohyas_trainer_matches_diffusers(
    demo_pipeline: DiffusionPipeline, tmp_path: Path
) -> None:
    def build() -> DiffusionPipeline:
        return copy.deepcopy(demo_pipeline)

    components = ("unet", "text_encoder")
    own = write_adapter(build(), tmp_path / "own", seed=1, components=components, rank=4)
    kohya = tmp_path / "kohya" / "epoch-10.safetensors"
    as_kohya(own, kohya, alpha=2.0)
    family = Family(build, {"kohya": kohya, "own": own})
    asked = (Adapter("kohya"),)
    engine = engine_over(family.served())
    try:
        plain, picture, halved = submit_all(
            engine,
            REQUEST,
            replace(REQUEST, adapters=asked),
            replace(REQUEST, adapters=(Adapter("own", 0.5),)),
        )
    finally:
        engine.close()

    assert largest_difference(picture, own_call(family.reference(asked), REQUEST)) <= TOLERANCE
    # The alpha is half the rank, so the file has half the effect.
    assert largest_difference(picture, halved) <= TOLERANCE
    assert largest_difference(picture, plain) > 2 * TOLERANCE
