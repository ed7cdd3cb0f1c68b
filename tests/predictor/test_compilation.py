"""``torch.compile`` of the denoiser: finished when the model is ready, never repeated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch._dynamo.aot_compile_types import GraphModuleSerializableCallable
from torch._dynamo.utils import counters

from predictor.engine.batch_searches import Start
from predictor.errors import ModelLoadError
from predictor.loading import engine as engine_choice
from predictor.loading.apply import denoiser_of
from predictor.loading.compilation import compile_denoiser, has_compiler
from predictor.pipelines.compiled_forward import CompiledForward
from predictor.pipelines.tuning import PLAIN, Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, ModelProfile
from predictor.settings import Settings
from tests.predictor.checkpoints import measured_engine
from tests.predictor.drawing import submit_all
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import build_sd3, build_sdxl

PROFILE = ModelProfile("r1", GenerationDefaults(128, 128, 2, 5.0, "default"), 8, ("default",))
REQUEST = PROFILE.default_request("a red circle")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def no_kernels() -> Iterator[None]:
    """Run ``torch.compile`` without the last stage, which takes a C++ compiler minutes."""
    torch.compiler.set_default_backend(lambda graph, inputs: GraphModuleSerializableCallable(graph))
    yield
    torch.compiler.set_default_backend(None)


@pytest.fixture
def large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose large batches, even if they are not faster on this machine."""
    start = Start(8, 8, is_settled=True)
    monkeypatch.setattr(engine_choice.Learned, "start", lambda *_, **__: start)


def a_pipeline(pipeline: DiffusionPipeline, tuning: Tuning) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(pipeline, PROFILE, tuning=tuning)


def graphs() -> int:
    """The number of compilations since the test started."""
    return int(counters["stats"]["unique_graphs"])


@contextmanager
def without_forward(network: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every pass fail for which there is no compiled code."""

    def forward(*_: object, **__: object) -> None:
        raise AssertionError("this pass is not compiled")

    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", forward)
        yield


@pytest.mark.usefixtures("no_kernels", "large_batches")
@pytest.mark.parametrize("build", [build_sdxl, build_sd3])
def test_no_request_waits_for_a_compilation(
    build: Callable[[], DiffusionPipeline],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = [
        [REQUEST],
        [replace(REQUEST, guidance_scale=0.0)],
        [replace(REQUEST, seed=seed) for seed in range(4)],
    ]
    if build is build_sdxl:
        # Its timesteps are whole numbers, those of the model's own scheduler fractions.
        batches.append([replace(REQUEST, scheduler="ddim")])
    oblong = replace(REQUEST, width=64, height=72)
    with closing(measured_engine(a_pipeline(build(), PLAIN), Settings())) as plain:
        expected = [submit_all(plain, *batch) for batch in [*batches, [oblong]]]
    assert graphs() == 0

    loaded = a_pipeline(build(), Tuning(compile=True))
    with closing(measured_engine(loaded, Settings())) as engine:
        at_ready = graphs()
        with without_forward(denoiser_of(loaded.diffusers), monkeypatch):
            drawn = [submit_all(engine, *batch) for batch in batches]
        drawn.append(submit_all(engine, oblong))

    assert graphs() == at_ready > 0
    # Without a compiled batch, the engine would make each picture alone.
    assert [one for one in caplog.messages if "tries fewer" in one] == []
    for pair in zip(itertools.chain(*drawn), itertools.chain(*expected), strict=True):
        assert largest_difference(*pair) <= 2


@pytest.mark.usefixtures("no_kernels")
def test_the_sizes_of_the_setting_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = a_pipeline(build_sdxl(), Tuning(compile=True))
    seen: list[tuple[int, int]] = []
    call = CompiledForward.__call__

    def look(forward: CompiledForward, sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append((sample.shape[-1] * 4, sample.shape[0]))
        return call(forward, sample, *rest, **options)

    monkeypatch.setattr(CompiledForward, "__call__", look)
    with closing(measured_engine(loaded, Settings(compile=True, compile_shapes="64x64,192x128"))):
        pass

    # The model's native size follows, for the warm-up picture.
    assert seen[:4] == [(64, 2), (64, 1), (192, 2), (192, 1)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [("100x64", "100x64: width: 100 is not a multiple of 8"), ("4096x64", "4096x64: width")],
)
def test_a_size_that_requests_may_not_have_is_rejected(shapes: str, message: str) -> None:
    loaded = a_pipeline(build_sdxl(), Tuning(compile=True))

    with pytest.raises(ModelLoadError, match=f"compile_shapes: {message}"):
        measured_engine(loaded, Settings(compile=True, compile_shapes=shapes))


def the_smallest() -> Any:
    """The demo model with a UNet small enough to compile in seconds."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[8],
        layers_per_block=1,
        down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"],
        mid_block_type=None,
        norm_num_groups=4,
    ).eval()
    return SimpleNamespace(
        diffusers=SimpleNamespace(unet=unet), profile=PROFILE, tuning=Tuning(compile=True)
    )


@torch.inference_mode()
def step(loaded: Any, lanes: int) -> torch.Tensor:
    torch.manual_seed(1)
    latents, conditioning = torch.randn(3, 4, 16, 16), torch.randn(3, 5, 8)
    prediction: torch.Tensor = loaded.diffusers.unet(
        latents[:lanes], torch.arange(lanes), conditioning[:lanes], return_dict=False
    )[0]
    return prediction


def test_a_compilation_error_stops_startup() -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no kernels today\nbecause of the weather\nand a long story")

    loaded = the_smallest()
    torch.compiler.set_default_backend(fails)
    try:
        with pytest.raises(
            ModelLoadError, match=r"set compile=false: .*no kernels today because of the weather$"
        ):
            compile_denoiser(loaded, Settings(), [lambda request: step(loaded, 2)])
    finally:
        torch.compiler.set_default_backend(None)


@pytest.mark.skipif(not has_compiler("cpu"), reason="requires a C++ compiler")
# torch's compiler uses deprecated functions of torch.
@pytest.mark.filterwarnings("ignore:.*is deprecated.*:DeprecationWarning")
def test_real_kernels_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = the_smallest()
    expected = step(loaded, 3)

    compile_denoiser(loaded, Settings(), [lambda request: step(loaded, 2)])

    assert graphs() == 1
    with without_forward(loaded.diffusers.unet, monkeypatch):
        assert torch.allclose(step(loaded, 3), expected, atol=1e-5)
