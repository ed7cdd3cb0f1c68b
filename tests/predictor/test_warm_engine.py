"""Ready means ready: the engine that serves the requests has made a picture with guidance."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from predictor.engine.interfaces import Lane
from predictor.engine.step_loop import StepEngine
from predictor.errors import ModelLoadError
from predictor.loading import engine as engine_choice
from predictor.loading.engine import Learned, open_engine
from predictor.pipelines.tuning import PLAIN
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings
from predictor.stages import StageTime
from tests.predictor.fake_denoiser import FakeDenoiser
from tests.predictor.test_whole_batch import GatedPipeline

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 20, 7.5, "unipc"), 8, ("unipc",))


class Recorder(FakeDenoiser):
    """Records what runs, and on which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.release(1_000)
        self.prepared: list[GenerationRequest] = []
        self.threads: list[str] = []

    def prepare(self, request: GenerationRequest) -> None:
        self.prepared.append(request)

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        self.threads.append(threading.current_thread().name)
        return super().predict(lanes)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.threads.append(threading.current_thread().name)
        return super().decode(latents)


def a_pipeline(**parts: Any) -> Any:
    request = PROFILE.default_request("warm-up")
    given = {
        "diffusers": None,
        "device": torch.device("cpu"),
        "tuning": PLAIN,
        "profile": PROFILE,
        "warm_up_request": lambda: GenerationRequest(
            "warm-up", "", 0, 64, 64, 2, request.guidance_scale, "unipc"
        ),
        "warm_up": lambda: None,
    }
    return SimpleNamespace(**given | parts)


@pytest.fixture
def denoiser(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(engine_choice, "supports", lambda pipeline: True)
    monkeypatch.setattr(engine_choice, "denoiser_for", lambda pipeline: recorder)
    return recorder


def test_the_step_loop_has_made_a_picture_with_guidance(denoiser: Recorder) -> None:
    with closing(open_engine(a_pipeline(), Path("any"), Settings(), Learned())) as engine:
        assert denoiser.threads[-3:] == ["engine"] * 3
        assert denoiser.events[-3:] == ["step", "step", "decode 1"]
        assert denoiser.lanes[-2:] == [2, 2]
        # The plan of the default request is ready too.
        assert PROFILE.default_request("warm-up") in denoiser.prepared
        # The first callers already get estimates.
        with engine.admission.reserve([PROFILE.default_request("any") for _ in range(9)]):
            assert engine.state.queue_seconds > 0
        assert engine.state[:2] == (0, 0)


def test_the_times_of_a_full_picture_follow_from_the_small_one(
    denoiser: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of a full picture would delay the readiness of a server without a GPU."""
    submit = StepEngine.submit
    full = PROFILE.default_request("any")

    async def submit_a_small_one(engine: StepEngine, request: GenerationRequest) -> Any:
        small = replace(request, width=full.width // 2, height=full.height // 2)
        result = await submit(engine, small)
        stages = StageTime("denoise", 0.0, 1.0), StageTime("decode", 1.0, 0.25)
        return replace(result, stages=stages)

    monkeypatch.setattr(StepEngine, "submit", submit_a_small_one)
    seen: list[tuple[float, float]] = []
    monkeypatch.setattr(StepEngine, "expect", lambda engine, *seconds: seen.append(seconds))

    open_engine(a_pipeline(), Path("any"), Settings(), Learned()).close()

    # The picture has two steps, and a quarter of the pixels.
    assert seen == [(2.0, 1.0)]


def test_no_larger_pass_runs_before_the_model_is_ready(denoiser: Recorder) -> None:
    with closing(open_engine(a_pipeline(), Path("any"), Settings(), Learned())):
        assert set(denoiser.lanes) == {2}


def test_a_picture_that_fails_ends_the_load_and_the_thread(
    denoiser: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(image: torch.Tensor) -> Any:
        raise ArithmeticError("the picture came out as NaN or infinity")

    monkeypatch.setattr(denoiser, "finish", fails)

    with pytest.raises(ModelLoadError, match=r"the warm-up steps failed: .* NaN"):
        open_engine(a_pipeline(), Path("any"), Settings(), Learned())
    assert "engine" not in {thread.name for thread in threading.enumerate()}


def test_the_cause_of_a_failed_picture_is_that_of_the_pipeline(
    denoiser: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Any:
        raise ModelLoadError("the warm-up picture failed: half of the weights are missing")

    def finish(image: torch.Tensor) -> Any:
        raise ValueError("a detail that callers do not see")

    monkeypatch.setattr(denoiser, "finish", finish)

    with pytest.raises(ModelLoadError, match="half of the weights are missing"):
        open_engine(a_pipeline(warm_up=fails), Path("any"), Settings(), Learned())


def test_a_pipeline_that_the_engine_can_run_makes_no_picture_of_its_own(
    denoiser: Recorder,
) -> None:
    calls: list[str] = []
    pipeline = a_pipeline(warm_up=lambda: calls.append("warm_up"))

    with closing(open_engine(pipeline, Path("any"), Settings(), Learned())):
        assert calls == []


def test_the_engine_of_whole_calls_has_made_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "supports", lambda pipeline: False)
    gated = GatedPipeline()
    gated.gate.release(100)
    pipeline = a_pipeline(generate=gated.generate)

    with closing(open_engine(pipeline, Path("any"), Settings(), Learned())):
        assert gated.batches == [["warm-up"]]
