"""Values of requests that are computed before the engine's thread needs them."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch

from predictor.pipelines.prepared import Prepared
from predictor.requests import GenerationRequest

REQUEST = GenerationRequest("a red circle", "", 3, 64, 64, 4, 5.0, "euler")


class Computing:
    """Computes a new value of 24 bytes for each request."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(self, request: GenerationRequest) -> tuple[int, torch.Tensor, tuple[Any, ...]]:
        self.seeds.append(request.seed)
        return request.seed, torch.zeros(4), (torch.zeros(2), None)


def test_a_prepared_value_is_not_computed_again_and_belongs_to_one_request() -> None:
    computing = Computing()
    prepared, other = Prepared(computing), replace(REQUEST)

    prepared.prepare(REQUEST)
    first = prepared.take(REQUEST)

    assert first[0] == 3
    assert computing.seeds == [3]
    # An equal request must not share its generator.
    assert prepared.take(other) is not first
    assert computing.seeds == [3, 3]


def test_a_value_is_dropped_with_its_request() -> None:
    prepared = Prepared(Computing())
    request = replace(REQUEST, seed=4)
    prepared.prepare(request)
    assert prepared.nbytes == 24

    del request  # the caller has left
    gc.collect()

    assert prepared.nbytes == 0


def test_the_requests_that_came_first_stay_prepared() -> None:
    computing = Computing()
    prepared = Prepared(computing, max_bytes=3 * 24)
    waiting = [replace(REQUEST, seed=seed) for seed in range(10)]
    for one in waiting:
        prepared.prepare(one)
    assert computing.seeds == [0, 1, 2]

    assert [prepared.take(one)[0] for one in waiting] == list(range(10))

    assert computing.seeds == list(range(10))
    assert prepared.nbytes == 0
