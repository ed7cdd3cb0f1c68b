"""CUDA graphs of UNets and transformers: which are kept, and which passes replay them.

``recorded_graphs`` stands in for the calls of ``torch.cuda``. Everything else is real.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.interfaces import Denoiser
from predictor.errors import ModelLoadError
from predictor.loading import engine as engine_choice
from predictor.loading.apply import denoiser_of
from predictor.loading.convolutions import Convolutions
from predictor.loading.engine import Learned, open_engine
from predictor.loading.graph_capture import can_capture, capture_graphs, example_pass
from predictor.loading.loader import load
from predictor.loading.memory import tensor_bytes
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.cuda_graphs import CudaGraphs, Pass
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.tuning import Savings, Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    Adapter,
    ControlNetInput,
    GenerationDefaults,
    GenerationRequest,
    ModelProfile,
)
from predictor.settings import Settings
from tests.predictor.drawing import make
from tests.predictor.pictures import largest_difference
from tests.predictor.random_adapters import write_adapter
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.predictor.recorded_graphs import FakeDevice, RecordedGraph, fake_device
from tests.predictor.test_controlnet import control_image

__all__ = ["fake_device"]

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 2, 5.0, "euler"), 8, ("euler",))
REQUEST = replace(PROFILE.default_request("a red circle"), seed=3)
# Buckets 4, 2 and 1, which are quick to capture.
SETTINGS = Settings(max_lanes=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    """SDXL with an adapter and a ControlNet, both of which change pictures."""
    pipeline = build_sdxl()
    pipeline.set_progress_bar_config(disable=True)
    folder: Path = tmp_path_factory.mktemp("adapters")
    file = write_adapter(pipeline, folder, seed=1, components=("unet",))
    controlnet = ControlNet(build_controlnet(pipeline, 1), pipeline.vae_scale_factor)
    return DiffusersPipeline(
        pipeline,
        PROFILE,
        adapter_files={"one": file},
        controlnets=ControlNets({"canny": controlnet}),
    )


@pytest.fixture
def loaded(model: DiffusersPipeline) -> DiffusersPipeline:
    """The model without graphs."""
    model.graphs = CudaGraphs()
    return model


@pytest.fixture(params=[build_sd3, build_flux], ids=["sd3", "flux"])
def transformer(request: pytest.FixtureRequest) -> DiffusersPipeline:
    """A model with a transformer, without graphs."""
    pipeline = request.param()
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(pipeline, replace(PROFILE, max_sequence_length=24))


def graphs_win(device: FakeDevice) -> Callable[[Callable[[], object]], float]:
    """A stopwatch that takes 1 s for a replay and 2 s for other work."""

    def seconds_of(work: Callable[[], object]) -> float:
        before = device.replays
        work()
        return 1.0 if device.replays > before else 2.0

    return seconds_of


def capture(
    loaded: DiffusersPipeline, device: FakeDevice, settings: Settings = SETTINGS, **options: Any
) -> Denoiser:
    denoiser = denoiser_for(loaded)
    options.setdefault("seconds_of", graphs_win(device))
    capture_graphs(loaded, denoiser, settings, **options)
    return denoiser


def passes(how: str) -> float:
    return REGISTRY.get_sample_value("diffusion_forward_passes_total", {"how": how}) or 0.0


@contextmanager
def counted(graph: int, eager: int) -> Iterator[None]:
    """The block makes this many passes of each kind."""
    before = passes("graph"), passes("eager")
    yield
    assert (passes("graph") - before[0], passes("eager") - before[1]) == (graph, eager)


def a_pass(
    loaded: DiffusersPipeline, lanes: int, seed: int = 0, request: GenerationRequest = REQUEST
) -> Pass:
    """Random arguments, different for each lane."""
    with torch.inference_mode():
        example = example_pass(loaded, denoiser_for(loaded), request).resized(lanes)
        torch.manual_seed(seed)
        return example.map(torch.randn_like)


@torch.inference_mode()
def run(loaded: DiffusersPipeline, given: Pass) -> torch.Tensor:
    return loaded.graphs.run(denoiser_of(loaded.diffusers), given)


@torch.inference_mode()
def eager(loaded: DiffusersPipeline, given: Pass) -> torch.Tensor:
    return given.run(denoiser_of(loaded.diffusers))


class Copies(TorchDispatchMode):
    """Counts copies into other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is torch.ops.aten.copy_.default
        return func(*args, **(kwargs or {}))


def test_conditions_that_have_not_changed_are_not_copied_again(
    loaded: DiffusersPipeline, fake_device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(loaded, fake_device)
    first, other = a_pass(loaded, 3), a_pass(loaded, 3, seed=1)
    second = first._replace(latents=other.latents, timesteps=other.timesteps)
    given = [first, second, second._replace(hidden_states=other.hidden_states), second]
    expected = [eager(loaded, one) for one in given]
    # The operations of a graph are its kernels.
    replay = RecordedGraph.replay
    monkeypatch.setattr(RecordedGraph, "replay", uncounted(replay))

    copies = []
    for one, prediction in zip(given, expected, strict=True):
        with Copies() as counted_copies:
            found = run(loaded, one)
        copies.append(counted_copies.number)
        assert torch.allclose(found, prediction, atol=1e-5)

    # SDXL's arguments are latents, timesteps, embeddings, and two more conditions.
    assert copies == [5, 2, 1, 1]


def uncounted(replay: Callable[[RecordedGraph], None]) -> Callable[[RecordedGraph], None]:
    def replay_uncounted(graph: RecordedGraph) -> None:
        with _disable_current_modes():  # type: ignore[no-untyped-call]
            replay(graph)

    return replay_uncounted


def test_a_pass_is_padded_to_the_next_graph(
    loaded: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    # The second pass leaves rows in the graph's memory that the third one must not see.
    given = [a_pass(loaded, lanes, seed) for seed, lanes in enumerate([1, 4, 3, 2, 1])]
    capture(loaded, fake_device)

    before = [graph.replays for graph in fake_device.graphs]

    with counted(graph=5, eager=0):
        predictions = [run(loaded, one) for one in given]

    for prediction, one in zip(predictions, given, strict=True):
        assert prediction.shape == one.latents.shape
        assert torch.allclose(prediction, eager(loaded, one), atol=1e-5)
    after = [graph.replays for graph in fake_device.graphs]
    # The graphs of 4, 2 and 1 lanes.
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1, 2]


def test_pictures_equal_those_without_graphs(
    loaded: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    requests = [
        REQUEST,
        replace(REQUEST, seed=4, num_inference_steps=3, prompt="a blue square"),
        replace(REQUEST, seed=5, guidance_scale=0.0, width=72),
    ]
    alone = [make(loaded, one)[0] for one in requests]
    capture(loaded, fake_device)

    before = passes("graph"), passes("eager")
    together = make(loaded, *requests)
    # The first two requests share their steps if they arrive together. The third has another size.
    assert 3 <= passes("graph") - before[0] <= 5
    assert passes("eager") - before[1] == 2

    for pair in zip(together, alone, strict=True):
        assert largest_difference(*pair) <= 2


def test_stable_diffusion_without_added_conditions_is_captured(
    demo_model: Path, fake_device: FakeDevice
) -> None:
    demo = load_pipeline(Checkpoint.read(demo_model), Settings())
    request = replace(demo.profile.default_request("a red circle"), num_inference_steps=3)
    before = passes("eager")
    (expected,) = make(demo, request)
    taken = passes("eager") - before
    capture(demo, fake_device, Settings(max_lanes=2))

    with counted(graph=int(taken), eager=0):
        (picture,) = make(demo, request)

    assert taken >= 3
    assert largest_difference(picture, expected) <= 2


def test_pictures_of_a_transformer_equal_those_without_graphs(
    transformer: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    requests = [
        REQUEST,
        replace(REQUEST, seed=4, num_inference_steps=3, guidance_scale=2.0),
        replace(REQUEST, seed=5, width=128),
    ]
    alone = [make(transformer, one)[0] for one in requests]
    capture(transformer, fake_device, Settings(max_lanes=4, compile_shapes="128x64"))

    before = passes("graph"), passes("eager")
    together = make(transformer, *requests)
    assert 5 <= passes("graph") - before[0] <= 7
    assert passes("eager") == before[1]

    for pair in zip(together, alone, strict=True):
        assert largest_difference(*pair) <= 2


def test_a_transformer_has_a_graph_for_each_aspect_ratio(
    transformer: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    """Both sizes have as many patches, at other positions."""
    sizes = [replace(REQUEST, width=128), replace(REQUEST, height=128)]
    given = [a_pass(transformer, 2, request=size) for size in sizes]
    capture(transformer, fake_device, Settings(max_lanes=2, compile_shapes="128x64,64x128"))

    with counted(graph=2, eager=0):
        predictions = [run(transformer, one) for one in given]

    for prediction, one in zip(predictions, given, strict=True):
        assert torch.allclose(prediction, eager(transformer, one), atol=1e-5)


def test_a_transformer_that_keeps_the_gpu_busy_is_not_captured(
    transformer: DiffusersPipeline,
    fake_device: FakeDevice,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The GPU computes for much longer than the CPU launches.
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: time.sleep(0.1))
    with caplog.at_level(logging.INFO):
        capture(transformer, fake_device)

    first, second = caplog.messages
    assert first == "no CUDA graphs at 64x64: the GPU does not wait for the CPU"
    assert second.endswith("64x64: none")
    assert fake_device.graphs == []
    with counted(graph=0, eager=2):
        make(transformer, REQUEST)


def test_a_transformer_with_an_adapter_runs_eagerly(
    fake_device: FakeDevice, tmp_path: Path
) -> None:
    pipeline = build_flux()
    pipeline.set_progress_bar_config(disable=True)
    file = write_adapter(pipeline, tmp_path, seed=1, components=("transformer",))
    profile = replace(PROFILE, max_sequence_length=24)
    flux = DiffusersPipeline(pipeline, profile, adapter_files={"one": file})
    capture(flux, fake_device, Settings(max_lanes=2))

    with counted(graph=0, eager=2):
        make(flux, replace(REQUEST, adapters=(Adapter("one", 1.0),)))
    with counted(graph=2, eager=0):
        make(flux, REQUEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"adapters": (Adapter("one", 1.0),)},
        {"controlnet": ControlNetInput("canny", control_image(0), 1.0)},
        {"width": 72},
    ],
    ids=["adapter", "controlnet", "size"],
)
def test_other_work_runs_eagerly(
    changes: dict[str, Any], loaded: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    request = replace(REQUEST, **changes)
    (expected,) = make(loaded, request)
    capture(loaded, fake_device)

    with counted(graph=0, eager=2):
        (picture,) = make(loaded, request)
    with counted(graph=2, eager=0):
        (plain,) = make(loaded, REQUEST)

    assert largest_difference(picture, expected) == 0
    assert picture.size != plain.size or largest_difference(picture, plain) > 10


def test_more_lanes_than_the_largest_graph_run_eagerly(
    loaded: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    given = a_pass(loaded, 5)
    capture(loaded, fake_device)

    with counted(graph=0, eager=1):
        run(loaded, given)


def test_all_graphs_share_a_pool_and_the_largest_is_captured_first(
    loaded: DiffusersPipeline, fake_device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device, Settings(max_lanes=8))

    captured = [one.operations[-1].results[0].shape[0] for one in fake_device.graphs]
    assert captured == [8, 6, 4, 2, 1]
    assert len({graph.pool for graph in fake_device.graphs}) == 1
    # The engines of other models allocate meanwhile.
    assert set(fake_device.modes) == {"thread_local"}
    (line,) = caplog.messages
    assert line.startswith("captured CUDA graphs in ")
    assert line.endswith("lanes by size: 64x64: 1, 2, 4, 6, 8")


def test_a_graph_that_saves_little_is_not_kept(
    loaded: DiffusersPipeline, fake_device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    # Seconds of an eager pass of the fewest lanes and of the graph, for 4, 2 and 1 lanes.
    seconds = iter([0.02, 0.0195, 0.02, 0.01, 0.02, 0.01])
    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device, seconds_of=lambda work: next(seconds))

    assert caplog.messages[0] == (
        "no CUDA graph of 4 lanes at 64x64: it takes 19.5 ms, but a pass of 3 without it 20.0 ms"
    )
    assert caplog.messages[1].endswith("64x64: 1, 2")
    large, *small = (graph.pool for graph in fake_device.graphs)
    # The memory of the large graph is free again.
    assert small == [small[0]] * 2
    assert large != small[0]


def test_a_graph_that_predicts_something_else_is_not_kept(
    loaded: DiffusersPipeline,
    fake_device: FakeDevice,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unet = loaded.diffusers.unet
    forward = unet.forward

    calls = itertools.count()

    def changes(sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return forward(sample + next(calls), *rest, **options)

    monkeypatch.setattr(unet, "forward", changes)
    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device)

    assert len(caplog.messages) == 4
    for line, lanes in zip(caplog.messages, (4, 2, 1), strict=False):
        assert line.startswith(f"no CUDA graph of {lanes} lanes at 64x64: its prediction differs")
    with counted(graph=0, eager=2):
        make(loaded, REQUEST)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        # Such a capture is invalid, and its end raises another error.
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=["valid", "invalid"],
)
def test_without_memory_for_a_graph_smaller_ones_are_captured(
    error: Exception,
    loaded: DiffusersPipeline,
    fake_device: FakeDevice,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_capture = fake_device.capture
    captures = itertools.count()

    @contextmanager
    def without_memory(*arguments: Any, **options: Any) -> Iterator[None]:
        with fake_capture(*arguments, **options):
            yield
            if next(captures) == 1:
                raise error

    monkeypatch.setattr(torch.cuda, "graph", without_memory)
    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device)

    assert caplog.messages[0] == "no CUDA graph of 2 lanes at 64x64: out of memory"
    assert caplog.messages[1].endswith("64x64: 1, 4")
    assert fake_device.recording == []


def test_a_unet_that_cannot_be_captured_is_tried_once(
    loaded: DiffusersPipeline,
    fake_device: FakeDevice,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unet = loaded.diffusers.unet
    forward = unet.forward

    def reads_on_the_host(sample: torch.Tensor, timestep: Any, *rest: Any, **options: Any) -> Any:
        return forward(sample, timestep[0].item(), *rest, **options)

    monkeypatch.setattr(unet, "forward", reads_on_the_host)
    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device)

    first, second = caplog.messages
    assert first.endswith("64x64: CUDA error: operation not permitted when stream is capturing")
    assert second.endswith("64x64: none")
    assert fake_device.recording == []
    with counted(graph=0, eager=2):
        make(loaded, REQUEST)


def test_a_graph_may_take_a_quarter_of_the_free_memory(
    loaded: DiffusersPipeline, fake_device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    fake_device.free, fake_device.taken = 4 * 2**30, 2**30

    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device)

    # The first graph takes exactly a quarter, the others a third of the rest and more.
    assert caplog.messages[0] == (
        "no CUDA graph of 2 lanes at 64x64: it takes 1.0 GiB of 3.0 GiB of free memory"
    )
    assert caplog.messages[-1].endswith("64x64: 4")
    assert loaded.graphs.memory_bytes == 2**30


def test_the_sizes_of_the_setting_are_captured_too(
    loaded: DiffusersPipeline, fake_device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(max_lanes=2, compile_shapes="64x64,72x64")
    with caplog.at_level(logging.INFO):
        capture(loaded, fake_device, settings)

    assert caplog.messages[0].endswith("64x64: 1, 2; 72x64: 1, 2")
    with counted(graph=4, eager=0):
        make(loaded, REQUEST)
        make(loaded, replace(REQUEST, width=72))


def test_a_size_that_requests_may_not_have_is_rejected(
    loaded: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    with pytest.raises(ModelLoadError, match="compile_shapes: 70x64: width: 70"):
        capture(loaded, fake_device, Settings(compile_shapes="70x64"))


def test_the_setting_turns_graphs_off(loaded: DiffusersPipeline, fake_device: FakeDevice) -> None:
    capture(loaded, fake_device, Settings(cuda_graphs="off"))

    assert fake_device.graphs == []


@pytest.mark.parametrize(
    ("device", "offload", "network", "expected"),
    [
        ("cuda", "none", "unet", True),
        ("cpu", "none", "unet", False),
        ("cuda", "model", "unet", False),
        ("cuda", "none", "transformer", True),
    ],
)
def test_graphs_need_a_gpu_and_weights_that_stay(
    device: str, offload: Any, network: str, expected: bool
) -> None:
    tuning = Tuning(savings=Savings(offload=offload))
    parts = SimpleNamespace(**{network: object()})
    loaded: Any = SimpleNamespace(device=torch.device(device), tuning=tuning, diffusers=parts)

    assert can_capture(loaded) is expected


def test_the_memory_of_a_model_includes_its_graphs(demo_model: Path) -> None:
    seen: list[DiffusersPipeline] = []

    def open_engine(pipeline: DiffusersPipeline, *_: Any) -> Any:
        seen.append(pipeline)
        pipeline.graphs.memory_bytes = 1000
        return SimpleNamespace()

    found = load(Checkpoint.read(demo_model), Settings(), Learned(), open_engine)

    assert found.memory_bytes == tensor_bytes(seen[0].diffusers) + 1000


@pytest.mark.parametrize("searches", [True, False])
def test_captures_use_the_search_of_cudnn_and_nothing_else_does(
    searches: bool, loaded: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    before = torch.backends.cudnn.benchmark
    capture(loaded, fake_device, searches=searches)

    assert fake_device.searches == [searches] * 3
    assert torch.backends.cudnn.benchmark == before


def test_a_server_captures_again_what_it_loads_again(
    loaded: DiffusersPipeline,
    fake_device: FakeDevice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen: list[GenerationRequest] = []

    def choose(loaded: DiffusersPipeline, *_: Any) -> Convolutions:
        chosen.append(loaded.profile.default_request("any"))
        return Convolutions(channels_last=True, searches=True)

    monkeypatch.setattr(engine_choice, "can_capture", lambda _: True)
    monkeypatch.setattr(engine_choice, "choose_convolutions", choose)
    monkeypatch.setattr(engine_choice, "capture_graphs", fast_capture(fake_device))
    learned = Learned()
    weight = loaded.diffusers.unet.conv_in.weight
    try:
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                open_engine(loaded, Path("any"), SETTINGS, learned).close()
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_inference()
    finally:
        loaded.diffusers.unet.to(memory_format=torch.contiguous_format)

    # A model that is loaded again is not measured again, but its graphs are captured again.
    assert len(chosen) == 1
    assert fake_device.searches == [True] * 6
    starts = [line.split()[0] for line in caplog.messages if "lanes" in line]
    assert starts == ["captured", "captured"]


def fast_capture(device: FakeDevice) -> Callable[..., None]:
    def captured(*arguments: Any, **options: Any) -> None:
        capture_graphs(*arguments, **options, seconds_of=graphs_win(device))

    return captured


def test_timesteps_may_be_fractional_in_a_graph_captured_with_whole_ones(
    model: DiffusersPipeline, fake_device: FakeDevice
) -> None:
    defaults = replace(PROFILE.defaults, scheduler="ddim")
    whole = DiffusersPipeline(model.diffusers, replace(PROFILE, defaults=defaults))
    given = a_pass(whole, 2)._replace(timesteps=torch.tensor([0.5, 900.75]))
    capture(whole, fake_device)

    with counted(graph=1, eager=0):
        prediction = run(whole, given)

    assert torch.allclose(prediction, eager(whole, given), atol=1e-5)
