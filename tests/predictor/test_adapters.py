"""Adapters: which are found, how they load and unload, and what a broken one affects."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from predictor.checkpoint.checkpoint import Checkpoint, find_adapters
from predictor.engine.capacity import Capacity
from predictor.engine.interfaces import Lane
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import GenerationFailedError
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines import adapted_layers
from predictor.pipelines.adapters import Adapters
from predictor.pipelines.schedulers import OWN
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    Adapter,
    GenerationDefaults,
    GenerationRequest,
    GenerationResult,
    ModelProfile,
)
from predictor.settings import Settings
from tests.predictor.pictures import largest_difference
from tests.predictor.random_adapters import WEIGHTS_NAME, write_adapter
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl

REQUEST = GenerationRequest("a red circle", "", 3, 64, 64, 3, 3.0, OWN)
PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 3, 3.0, OWN), 8, (OWN,))
BOTH = ("unet", "text_encoder")
# Names that are not valid as attributes or in the keys of weights.
AWKWARD = ["a", "a.b-c", "keys", "lora", "text_encoder"]


@pytest.fixture(scope="module")
def model(demo_model: Path) -> DiffusionPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers


@pytest.fixture(scope="module")
def files(model: DiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(copy.deepcopy(model), folder / name, seed=seed, components=BOTH)
        for seed, name in enumerate(["one", "two", "three"])
    }


@pytest.fixture
def pipeline(model: DiffusionPipeline) -> DiffusionPipeline:
    return copy.deepcopy(model)


@contextmanager
def step_engine(pipeline: DiffusersPipeline) -> Iterator[StepEngine]:
    engine = StepEngine(denoiser_for(pipeline), Capacity(32, 8 * 8, 1.0), max_queue_length=64)
    try:
        yield engine
    finally:
        engine.close()


def make(pipeline: DiffusersPipeline, *requests: GenerationRequest) -> list[Any]:
    async def story() -> list[Any]:
        with step_engine(pipeline) as engine:
            made = (engine.submit(request) for request in requests)
            return await asyncio.gather(*made, return_exceptions=True)

    return asyncio.run(story())


def wrappers(pipeline: DiffusionPipeline) -> list[BaseTunerLayer]:
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [one for part in parts for one in part.modules() if isinstance(one, BaseTunerLayer)]


def with_adapter(name: str, scale: float = 1.0) -> GenerationRequest:
    return replace(REQUEST, adapters=(Adapter(name, scale),))


def test_only_folders_with_one_safetensors_file_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "adapters"
    for path in (
        f"a.b-c/{WEIGHTS_NAME}",
        "kohya/epoch-10.safetensors",
        f"preferred/{WEIGHTS_NAME}",
        "preferred/other.safetensors",
        "pickled/pytorch_lora_weights.bin",
        "pickled/lora.pt",
        "two/one.safetensors",
        "two/other.safetensors",
        "loose.safetensors",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()

    with caplog.at_level(logging.WARNING):
        found = find_adapters(tmp_path)

    assert found == {
        "a.b-c": folder / "a.b-c" / WEIGHTS_NAME,
        "kohya": folder / "kohya" / "epoch-10.safetensors",
        "preferred": folder / "preferred" / WEIGHTS_NAME,
    }
    log = caplog.text
    assert "'pickled'" in log
    assert "'two'" in log
    assert find_adapters(folder) == {}


def test_the_profile_lists_the_adapters(pipeline: DiffusionPipeline, files: Any) -> None:
    assert DiffusersPipeline(pipeline, PROFILE, adapter_files=files).profile.adapters == (
        "one",
        "two",
        "three",
    )


def test_a_pipeline_without_adapter_support_has_none(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    class Unusual:
        components: ClassVar[dict[str, Any]] = {}

    assert Adapters(Unusual(), files).names == ()
    assert "Unusual does not support adapters" in caplog.text


def test_any_folder_name_works(
    pipeline: DiffusionPipeline, model: DiffusionPipeline, tmp_path: Path
) -> None:
    named = {
        name: write_adapter(
            copy.deepcopy(model), tmp_path / name, seed=seed, components=BOTH, rank=1
        )
        for seed, name in enumerate(AWKWARD)
    }
    every = [with_adapter(name) for name in AWKWARD]
    results = make(DiffusersPipeline(pipeline, PROFILE, adapter_files=named), REQUEST, *every)

    pictures = [result.image for result in results]
    for index, picture in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert largest_difference(picture, other) > 2


def test_a_layer_is_wrapped_only_while_one_of_its_adapters_is_active(
    pipeline: DiffusionPipeline, model: DiffusionPipeline, tmp_path: Path
) -> None:
    queries = write_adapter(
        copy.deepcopy(model), tmp_path, seed=0, components=("unet",), target_modules=["to_q"]
    )
    adapters = Adapters(pipeline, {"queries": queries})
    expected = [name for name, _ in pipeline.unet.named_modules() if name.endswith("to_q")]
    asked = (Adapter("queries"),)

    adapters.load(asked)
    assert wrappers(pipeline) == []
    adapters.use(asked)
    assert len(wrappers(pipeline)) == len(expected) > 0
    adapters.use(asked, ("text_encoder",))
    assert len(wrappers(pipeline)) == len(expected)
    adapters.use((), ("text_encoder",))
    assert len(wrappers(pipeline)) == len(expected)
    adapters.use(())
    assert wrappers(pipeline) == []


def test_layers_are_not_touched_while_the_set_is_unchanged(
    pipeline: DiffusionPipeline, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = Adapters(pipeline, files)
    adapters.use([Adapter("one", 0.5)])
    puts: list[object] = []
    put = adapted_layers._Place.put
    monkeypatch.setattr(
        adapted_layers._Place, "put", lambda place, names: (puts.append(names), put(place, names))
    )

    adapters.use([Adapter("one", 0.5)])
    assert puts == []
    adapters.use([Adapter("one", 0.6)])
    assert puts


def test_dropout_is_off(
    pipeline: DiffusionPipeline, model: DiffusionPipeline, tmp_path: Path
) -> None:
    file = write_adapter(
        copy.deepcopy(model), tmp_path, seed=0, components=("unet",), lora_dropout=0.5
    )
    adapters = Adapters(pipeline, {"trained": file})
    adapters.use([Adapter("trained")])

    dropouts = [one.lora_dropout["adapter_0_"] for one in wrappers(pipeline)]
    assert dropouts
    assert all(isinstance(one, torch.nn.Dropout) and not one.training for one in dropouts)


def test_adapter_weights_have_the_dtype_of_the_model(
    pipeline: DiffusionPipeline, files: dict[str, Path]
) -> None:
    pipeline.to(torch.bfloat16)
    adapters = Adapters(pipeline, files)
    adapters.use([Adapter("one")])

    found = {value.dtype for one in wrappers(pipeline) for value in one.parameters()}
    assert load_file(files["one"]).popitem()[1].dtype == torch.float32
    assert found == {torch.bfloat16}


def test_loaded_adapters_are_bounded_and_reload_when_needed(
    pipeline: DiffusionPipeline, files: dict[str, Path]
) -> None:
    size = files["one"].stat().st_size
    adapters = Adapters(pipeline, files, max_bytes=2 * size + size // 2)
    held: list[set[str]] = []
    for names in (["one"], ["two"], ["one"], ["three"], ["two", "three"], ["one", "two", "three"]):
        adapters.use([Adapter(name) for name in names])
        held.append(set(pipeline.unet.peft_config))

    one, two, three = "adapter_0_", "adapter_1_", "adapter_2_"
    assert held == [
        {one},
        {one, two},
        {one, two},
        {one, three},
        {two, three},
        # Over the limit, but one request needs them all.
        {one, two, three},
    ]


def test_an_adapter_unloaded_during_a_request_does_not_change_the_picture(
    model: DiffusionPipeline, files: dict[str, Path]
) -> None:
    requests = [replace(with_adapter(name), num_inference_steps=2) for name in ("one", "two")]
    roomy = DiffusersPipeline(copy.deepcopy(model), PROFILE, adapter_files=files)
    narrow = DiffusersPipeline(copy.deepcopy(model), PROFILE, adapter_files=files)
    narrow.adapters = Adapters(narrow.diffusers, files, max_bytes=1)

    for one, other in zip(make(roomy, *requests), make(narrow, *requests), strict=True):
        assert largest_difference(one.image, other.image) <= 2


def _damaged(file: Path, _: dict[str, torch.Tensor]) -> None:
    file.write_bytes(b"no safetensors")


def _too_wide(file: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({key: torch.cat([value, value]) for key, value in weights.items()}, file)


def _wide_in_the_text_encoder(file: Path, weights: dict[str, torch.Tensor]) -> None:
    wide = {
        key: torch.cat([value, value]) if key.startswith("text_encoder") else value
        for key, value in weights.items()
    }
    save_file(wide, file)


def _of_another_family(file: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({f"transformer.{key}": value for key, value in weights.items()}, file)


def _truncated(file: Path, _: dict[str, torch.Tensor]) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _not_finite(file: Path, weights: dict[str, torch.Tensor]) -> None:
    *finite, last = weights
    poisoned = {last: torch.full_like(weights[last], float("nan"))}
    save_file({key: weights[key] for key in finite} | poisoned, file)


def _gone(file: Path, _: dict[str, torch.Tensor]) -> None:
    file.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        _damaged,
        _truncated,
        _not_finite,
        _too_wide,
        _wide_in_the_text_encoder,
        _of_another_family,
        _gone,
    ],
)
def test_a_broken_adapter_is_named_and_fails_only_its_requests(
    pipeline: DiffusionPipeline,
    files: dict[str, Path],
    tmp_path: Path,
    damage: Callable[[Path, dict[str, torch.Tensor]], None],
) -> None:
    broken = tmp_path / WEIGHTS_NAME
    weights = load_file(files["one"])
    save_file(weights, broken)
    served = DiffusersPipeline(pipeline, PROFILE, adapter_files=files | {"broken one": broken})
    damage(broken, weights)
    plain, one = make(served, REQUEST, with_adapter("one"))

    results = make(
        served, with_adapter("broken one"), REQUEST, with_adapter("one"), with_adapter("broken one")
    )

    for failed in (results[0], results[3]):
        assert isinstance(failed, GenerationFailedError)
        assert "adapter 'broken one' does not load" in str(failed)
        assert str(tmp_path) not in str(failed)
    assert largest_difference(results[1].image, plain.image) <= 1
    assert largest_difference(results[2].image, one.image) <= 1
    served.adapters.use(())
    assert wrappers(pipeline) == []
    assert len(pipeline.unet.peft_config) == len(pipeline.text_encoder.peft_config) == 1


def test_a_broken_adapter_is_tried_once_and_an_unreadable_one_is_retried(
    pipeline: DiffusionPipeline,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[str] = []
    load = pipeline.load_lora_weights

    def counted(folder: Path, **options: Any) -> None:
        tries.append(options["adapter_name"])
        load(folder, **options)

    monkeypatch.setattr(pipeline, "load_lora_weights", counted, raising=False)
    other = tmp_path / "other.safetensors"
    _of_another_family(other, load_file(files["one"]))
    away = tmp_path / "away.safetensors"
    adapters = Adapters(pipeline, {"other": other, "away": away})
    for name in ("other", "other", "away"):
        with pytest.raises(GenerationFailedError, match=name):
            adapters.load([Adapter(name)])
    save_file(load_file(files["one"]), away)
    adapters.load([Adapter("away")])

    assert tries == ["adapter_0_", "adapter_1_"]


def test_a_file_that_would_change_flux_permanently_is_rejected(tmp_path: Path) -> None:
    pipeline = build_flux()
    file = write_adapter(build_flux(), tmp_path / "plain", seed=0, components=("transformer",))
    width = pipeline.transformer.x_embedder.in_features
    wide = {
        "transformer.x_embedder.lora_A.weight": torch.ones(4, 2 * width),
        "transformer.x_embedder.lora_B.weight": torch.ones(
            pipeline.transformer.x_embedder.out_features, 4
        ),
    }
    norms = {"transformer.transformer_blocks.0.attn.norm_q.weight": torch.ones(16)}
    proj_out = pipeline.transformer.proj_out.weight
    weights = {"transformer.proj_out.weight": torch.zeros_like(proj_out)}
    named = {"plain": file}
    for name, more in (("wide", wide), ("norms", norms), ("weights", weights)):
        named[name] = tmp_path / f"{name}.safetensors"
        save_file(load_file(file) | more, named[name])
    before = {key: value.clone() for key, value in pipeline.transformer.state_dict().items()}
    adapters = Adapters(pipeline, named)

    adapters.load([Adapter("plain")])
    for name in ("wide", "norms", "weights"):
        with pytest.raises(GenerationFailedError, match=name):
            adapters.load([Adapter(name)])

    after = pipeline.transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_lanes_share_a_forward_pass_only_where_their_sets_are_equal(
    pipeline: DiffusionPipeline, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = denoiser_for(DiffusersPipeline(pipeline, PROFILE, adapter_files=files))
    passes: list[tuple[set[Any], int]] = []
    threads: set[str] = set()
    predict, load = denoiser.predict, pipeline.load_lora_weights

    def watched(lanes: list[Lane]) -> torch.Tensor:
        passes.append(({lane.denoising.kind.adapters for lane in lanes}, len(lanes)))  # type: ignore[attr-defined]
        return predict(lanes)

    def loaded(*arguments: Any, **options: Any) -> None:
        threads.add(threading.current_thread().name)
        load(*arguments, **options)

    monkeypatch.setattr(denoiser, "predict", watched)
    monkeypatch.setattr(pipeline, "load_lora_weights", loaded, raising=False)

    async def story() -> None:
        engine = StepEngine(denoiser, Capacity(32, 8 * 8, 1.0), max_queue_length=64)
        batch = [with_adapter("one"), REQUEST, with_adapter("two"), with_adapter("one", 0.5)]
        try:
            await asyncio.gather(*(engine.submit(one) for one in [*batch, *batch]))
        finally:
            engine.close()

    asyncio.run(story())
    assert all(len(sets) == 1 for sets, _ in passes)
    assert {next(iter(sets)) for sets, lanes in passes if lanes == 4} == {
        (),
        (Adapter("one"),),
        (Adapter("two"),),
        (Adapter("one", 0.5),),
    }
    assert threads == {"engine"}


@pytest.mark.parametrize("build", [build_sd3, build_flux])
def test_one_call_of_a_whole_pipeline_uses_one_set(
    build: Callable[[], DiffusionPipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_adapter(build(), tmp_path, seed=0, components=("transformer",))
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    served = DiffusersPipeline(pipeline, PROFILE, adapter_files={"one": file})
    calls: list[list[GenerationRequest]] = []
    generate = served.generate

    def watched(requests: list[GenerationRequest], on_step: Any) -> list[GenerationResult]:
        calls.append(list(requests))
        return generate(requests, on_step)

    monkeypatch.setattr(served, "generate", watched)

    async def story() -> None:
        engine = WholeBatchEngine(served, max_batch=8, max_queue_length=64)
        batch = [REQUEST, with_adapter("one"), with_adapter("one", 0.5)] * 3
        try:
            requests = [replace(one, seed=seed) for seed, one in enumerate(batch)]
            await asyncio.gather(*(engine.submit(one) for one in requests))
        finally:
            engine.close()

    asyncio.run(story())
    assert all(len({request.adapters for request in call}) == 1 for call in calls)
    assert max(map(len, calls)) >= 2


def test_prompts_are_encoded_again_only_for_adapters_of_the_text_encoders(tmp_path: Path) -> None:
    parts = {"unet": ("unet",), "second": ("text_encoder_2",)}
    named = {
        name: write_adapter(build_sdxl(), tmp_path / name, seed=0, components=components)
        for name, components in parts.items()
    }
    denoiser = denoiser_for(DiffusersPipeline(build_sdxl(), PROFILE, adapter_files=named))
    request = replace(REQUEST, adapters=(Adapter("second"), Adapter("unet")))

    denoising = denoiser.begin(request)

    assert denoising.encoders == (Adapter("second"),)
    assert denoising.kind.adapters == request.adapters  # type: ignore[attr-defined]
    assert denoiser.begin(with_adapter("unet")).encoders == denoiser.begin(REQUEST).encoders == ()
