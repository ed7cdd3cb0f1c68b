"""Engines whose thread ends, hangs or loses the GPU: no request waits forever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from predictor.engine import Engine, worker
from predictor.engine.capacity import Capacity
from predictor.engine.faults import is_out_of_memory
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import GenerationFailedError, ModelUnavailableError, PredictorError
from tests.predictor.fake_denoiser import FakeDenoiser, Scene, request, run_story
from tests.predictor.test_whole_batch import GatedPipeline
from tests.waiting import wait_until

DEVICE_ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported"
EXITS = [SystemExit("secret detail"), KeyboardInterrupt()]


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def outcome(engine: Engine, prompt: str = "any") -> object:
    """The result of one request, or its error; fails if there is neither within 10 s."""

    async def submit() -> object:
        try:
            return await asyncio.wait_for(engine.submit(request(prompt)), 10)
        except PredictorError as error:
            return error

    return asyncio.run(submit())


def step_engine(denoiser: FakeDenoiser, *rest: Any, **options: Any) -> StepEngine:
    return StepEngine(denoiser, Capacity(16, 64, steps_per_decode=2.0), 8, *rest, **options)


@pytest.fixture
def denoiser() -> Iterator[FakeDenoiser]:
    fake = FakeDenoiser()
    fake.gate.release(100_000)
    yield fake


def check_has_ended(engine: Engine, first: object) -> None:
    assert isinstance(first, GenerationFailedError)
    assert "secret" not in str(first)
    assert engine.state.failure
    assert isinstance(outcome(engine), ModelUnavailableError)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("error", EXITS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["begin", "predict", "decode", "warnings"])
def test_a_step_engine_whose_thread_ends_fails_all_requests(
    denoiser: FakeDenoiser, name: str, error: BaseException
) -> None:
    engine = step_engine(denoiser)
    setattr(denoiser, name, raising(error))

    check_has_ended(engine, outcome(engine))


def test_an_exit_while_prompts_are_encoded_ends_the_thread() -> None:
    class Encoder(FakeDenoiser):
        def encode(self, prompts: Any, encoders: Any = ()) -> Any:
            if "exit" in prompts:
                raise SystemExit
            return super().encode(prompts, encoders)

    engine = step_engine(Encoder())

    check_has_ended(engine, outcome(engine, "exit"))


@pytest.mark.parametrize("error", EXITS, ids=lambda error: type(error).__name__)
def test_a_whole_batch_engine_whose_thread_ends_fails_all_requests(error: BaseException) -> None:
    pipeline = GatedPipeline()
    pipeline.generate = raising(error)  # type: ignore[method-assign]
    engine = WholeBatchEngine(pipeline, 2, max_queue_length=8)

    check_has_ended(engine, outcome(engine))


def test_requests_that_wait_when_the_thread_ends_can_be_sent_again() -> None:
    async def story(scene: Scene) -> None:
        running = await scene.submit_all(*(request(f"{index}", 9) for index in range(9)))
        scene.denoiser.predict = raising(SystemExit())  # type: ignore[method-assign]
        scene.run_free()
        failed = await asyncio.gather(*running, return_exceptions=True)
        kinds = [type(error) for error in failed]
        assert kinds == [GenerationFailedError] * 8 + [ModelUnavailableError]

    run_story(story, lanes=2)


def test_an_exit_while_a_picture_is_converted_fails_only_this_picture(
    denoiser: FakeDenoiser,
) -> None:
    engine, own = step_engine(denoiser), denoiser.finish
    denoiser.finish = raising(SystemExit())  # type: ignore[method-assign]
    failed = outcome(engine)
    denoiser.finish = own  # type: ignore[method-assign]

    assert isinstance(failed, GenerationFailedError)
    assert engine.state.failure == ""
    assert not isinstance(outcome(engine), Exception)
    engine.close()


def cpu_allocation_error() -> RuntimeError:
    """The error that torch raises when the machine's memory is not enough."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55, dtype=torch.uint8)
    return raised.value


@pytest.mark.parametrize("error", [MemoryError(), cpu_allocation_error()], ids=["python", "torch"])
def test_out_of_main_memory_is_treated_like_out_of_gpu_memory(error: Exception) -> None:
    class SmallDenoiser(FakeDenoiser):
        def predict(self, lanes: Any) -> torch.Tensor:
            if len(lanes) > 2:
                self.gate.acquire()
                self.waiting.release()
                raise error
            return super().predict(lanes)

    async def story(scene: Scene) -> None:
        scene.run_free()
        tasks = scene.submit(*(request(f"{index}", 3) for index in range(4)))
        results = await asyncio.gather(*tasks)
        assert len(results) == 4
        assert scene.engine.state.out_of_memory > 0
        assert scene.capacity.lanes <= 4

    run_story(story, SmallDenoiser())


def test_other_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("the sizes do not match"))
    assert not is_out_of_memory(torch.AcceleratorError("CUDA error: an illegal memory access"))
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))


def test_a_cache_that_cannot_be_released_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", raising(RuntimeError("CUDA error")))

    async def story(scene: Scene) -> None:
        scene.run_free()
        tasks = scene.submit(*(request(f"{index}", 3) for index in range(4)))
        assert len(await asyncio.gather(*tasks)) == 4
        assert scene.engine.state.out_of_memory > 0

    run_story(story, FakeDenoiser(memory_in_lanes=2))


@pytest.fixture
def lost_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.AcceleratorError:
    """A GPU on which every call fails, as after a device-side assert."""
    error = torch.AcceleratorError(DEVICE_ASSERT)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", raising(error))
    return error


def test_a_gpu_that_captures_a_graph_is_not_lost(
    denoiser: FakeDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    capturing = torch.AcceleratorError(
        "CUDA error: operation not permitted when stream is capturing\nand a stack"
    )
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", raising(capturing))
    engine, own = step_engine(denoiser), denoiser.predict
    denoiser.predict = raising(RuntimeError("only this request"))  # type: ignore[method-assign]
    failed = outcome(engine)
    denoiser.predict = own  # type: ignore[method-assign]

    assert isinstance(failed, GenerationFailedError)
    assert not isinstance(outcome(engine), Exception)
    engine.close()


@pytest.mark.parametrize("name", ["begin", "predict", "decode", "finish"])
def test_a_lost_gpu_ends_the_step_engine(
    denoiser: FakeDenoiser, lost_gpu: Exception, name: str
) -> None:
    engine = step_engine(denoiser)
    setattr(denoiser, name, raising(lost_gpu))
    first = outcome(engine)

    assert "GPU" in engine.state.failure
    assert "device-side assert triggered" in engine.state.failure
    assert "\n" not in engine.state.failure
    check_has_ended(engine, first)


def test_a_lost_gpu_ends_the_whole_batch_engine(lost_gpu: Exception) -> None:
    pipeline = GatedPipeline()
    pipeline.generate = raising(lost_gpu)  # type: ignore[method-assign]
    engine = WholeBatchEngine(pipeline, 2, max_queue_length=8)

    check_has_ended(engine, outcome(engine))


def test_a_cuda_error_that_leaves_the_gpu_usable_fails_one_request(
    denoiser: FakeDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    engine, own = step_engine(denoiser), denoiser.predict
    denoiser.predict = raising(torch.AcceleratorError("CUDA error: invalid argument"))  # type: ignore[method-assign]
    failed = outcome(engine)
    denoiser.predict = own  # type: ignore[method-assign]

    assert isinstance(failed, GenerationFailedError)
    assert engine.state.failure == ""
    assert not isinstance(outcome(engine), Exception)
    engine.close()


@pytest.mark.parametrize("name", ["begin", "predict", "decode", "finish"])
def test_a_step_engine_that_hangs_answers_its_callers_and_can_recover(
    denoiser: FakeDenoiser, name: str
) -> None:
    engine, moves, own = step_engine(denoiser, stall_seconds=0.2), threading.Event(), {}
    own[name] = getattr(denoiser, name)

    def hang(*arguments: Any) -> Any:
        assert moves.wait(30)
        return own[name](*arguments)

    setattr(denoiser, name, hang)
    first = outcome(engine)
    reason, refused = engine.state.failure, outcome(engine)
    moves.set()
    wait_until(lambda: not engine.state.failure)

    assert isinstance(first, GenerationFailedError)
    assert reason.endswith("takes longer than 0 s")
    assert isinstance(refused, ModelUnavailableError)
    assert not isinstance(outcome(engine), Exception)
    engine.close()


def test_a_whole_batch_engine_that_hangs_between_two_steps_answers_its_callers() -> None:
    pipeline = GatedPipeline()
    pipeline.gate.release()
    engine = WholeBatchEngine(pipeline, 2, max_queue_length=8, stall_seconds=0.2)
    first = outcome(engine)

    assert isinstance(first, GenerationFailedError)
    assert "pipeline call" in engine.state.failure
    pipeline.gate.release(100)
    engine.close()


def test_an_engine_that_hangs_is_closed_without_it(
    denoiser: FakeDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CLOSE_SECONDS", 0.1)
    moves, hangs = threading.Event(), threading.Event()

    def hang(*_: Any) -> Any:
        hangs.set()
        moves.wait(30)
        raise ValueError

    async def story() -> list[BaseException | Any]:
        running = asyncio.create_task(engine.submit(request("any")))
        assert await asyncio.to_thread(hangs.wait, 10)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(running, return_exceptions=True)

    engine = step_engine(denoiser)
    denoiser.predict = hang  # type: ignore[method-assign]
    (failed,) = asyncio.run(asyncio.wait_for(story(), 10))
    moves.set()

    assert isinstance(failed, Exception)
