"""The measured bounds: where batches stop to pay, and what fits beside what."""

from __future__ import annotations

import pytest
import torch

from predictor.engine.capacity import Capacity, find_best_batch, measure_capacity
from tests.predictor.fake_denoiser import FakeDenoiser, request


@pytest.mark.parametrize(
    ("seconds", "most", "best"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 8, 8),
        ({1: 1.0, 2: 1.1, 4: 2.15, 8: 4.3}, 8, 2),
        ({1: 1.0, 2: 1.98, 4: 3.96}, 32, 1),
        ({1: 1.0, 2: 2.5, 4: 2.0, 8: 4.0, 16: 8.0}, 32, 4),
        ({1: 1.0, 2: 1.0, 4: 1.0}, 7, 4),
    ],
)
def test_the_batch_is_doubled_while_that_brings_more(
    seconds: dict[int, float], most: int, best: int
) -> None:
    assert find_best_batch(seconds.__getitem__, most) == (best, seconds[best])


def test_what_does_not_fit_ends_the_search() -> None:
    def seconds_of(size: int) -> float:
        if size > 4:
            raise torch.OutOfMemoryError
        return 1.0

    assert find_best_batch(seconds_of, 64) == (4, 1.0)


def test_a_denoiser_is_measured_without_a_request() -> None:
    denoiser = FakeDenoiser(memory_in_lanes=4)
    denoiser.gate.release(1_000)

    capacity = measure_capacity(denoiser, request("any"), max_lanes=16)

    assert 2 <= capacity.lanes <= 4
    assert capacity.latent_pixels == 64
    assert capacity.steps_per_decode > 0


def test_the_log_reads_the_capacity_as_a_sentence() -> None:
    assert str(Capacity(16, 64, steps_per_decode=1.96)) == (
        "up to 16 lanes in a forward pass, decoding a picture takes as long as 2.0 steps"
    )


def test_a_slow_decoder_is_let_one_picture_and_a_fast_one_a_few() -> None:
    assert Capacity(16, 64, steps_per_decode=10.0).decodes(stepped=5) == 1
    assert Capacity(16, 64, steps_per_decode=2.0).decodes(stepped=5) == 2
    assert Capacity(16, 64, steps_per_decode=0.1).decodes(stepped=5) == 4


def test_the_first_run_of_a_size_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("predictor.engine.capacity.time.perf_counter", lambda: clock[0])
    denoiser = FakeDenoiser()
    denoiser.gate.release(1_000)
    predict = denoiser.predict
    seen: set[int] = set()

    def predict_in_time(latents: torch.Tensor, *others: object) -> torch.Tensor:
        # A step takes as long for any number of lanes, but for the first of its size.
        clock[0] += 0.1 if len(latents) in seen else 10.0
        seen.add(len(latents))
        return predict(latents, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(denoiser, "predict", predict_in_time)

    assert measure_capacity(denoiser, request("any"), max_lanes=16).lanes == 16
