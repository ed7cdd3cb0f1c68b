"""The noise that a picture starts from, drawn in advance or not."""

from __future__ import annotations

import pytest
import torch

from predictor.pipelines.initial_noise import InitialNoise

SHAPE = (1, 4, 8, 8)


def test_prepared_noise_and_its_generator_are_those_of_the_seed() -> None:
    noise = InitialNoise(torch.device("cpu"), torch.float16)
    noise.prepare(7, SHAPE)

    prepared = noise.take(7, SHAPE)
    drawn = noise.take(7, SHAPE)  # not prepared

    expected = torch.Generator().manual_seed(7)
    wanted = torch.randn(SHAPE, generator=expected, dtype=torch.float16)
    following = torch.randn(SHAPE, generator=expected)
    for one in (prepared, drawn):
        assert torch.equal(one.noise, wanted)
        assert torch.equal(torch.randn(SHAPE, generator=one.generator), following)
    assert prepared.generator is not drawn.generator


def test_pictures_with_the_same_seed_are_all_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = InitialNoise(torch.device("cpu"), torch.float32)
    for seed in (7, 8, 7):
        noise.prepare(seed, SHAPE)
    monkeypatch.setattr(noise, "_draw", None)

    first, second = (noise.take(7, SHAPE) for _ in range(2))

    assert torch.equal(first.noise, second.noise)
    assert first.generator is not second.generator


def test_noise_that_is_not_taken_is_dropped_in_the_end() -> None:
    noise = InitialNoise(torch.device("cpu"), torch.float32)

    for seed in range(1000):
        noise.prepare(seed, SHAPE)

    assert len(noise._prepared) <= 64
    assert torch.equal(noise.take(0, SHAPE).noise, noise.take(0, SHAPE).noise)
