"""The layout and the search of convolutions are chosen by their times on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch

from predictor.loading.convolutions import (
    Convolutions,
    Times,
    choose_convolutions,
    improves,
    set_layout,
)
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.tuning import Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, ModelProfile
from predictor.settings import Settings
from tests.predictor.random_pipelines import build_sdxl
from tests.predictor.recorded_graphs import FakeDevice, fake_device

__all__ = ["fake_device"]

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 2, 5.0, "euler"), 8, ("euler",))
SETTINGS = Settings(max_lanes=4)


@pytest.fixture(scope="module")
def pipeline() -> DiffusersPipeline:
    return DiffusersPipeline(build_sdxl(), PROFILE)


@pytest.fixture
def loaded(pipeline: DiffusersPipeline) -> Iterator[DiffusersPipeline]:
    yield pipeline
    pipeline.tuning = Tuning()
    set_layout(pipeline.diffusers.unet, channels_last=False)


def is_channels_last(loaded: DiffusersPipeline) -> bool:
    weight: torch.Tensor = loaded.diffusers.unet.conv_in.weight
    return weight.is_contiguous(memory_format=torch.channels_last)


class Gpu:
    """A stopwatch with the times of a GPU; a batch of any size takes 1 s unless a test changes it.

    ``lone`` is for a replayed step and ``largest`` for an eager pass, with channels-last weights;
    ``searched`` is for a replayed step with the algorithms that cuDNN found.
    """

    def __init__(self, loaded: DiffusersPipeline, device: FakeDevice) -> None:
        self.lone = self.largest = self.searched = 1.0
        self._loaded = loaded
        self._device = device
        self.lanes: list[int] = []
        self._hook = loaded.diffusers.unet.register_forward_pre_hook(
            lambda _, arguments: self.lanes.append(len(arguments[0]))
        )

    def seconds_of(self, work: Callable[[], object]) -> float:
        replays = self._device.replays
        work()
        is_last = is_channels_last(self._loaded)
        if self._device.replays == replays:
            return self.largest if is_last else 1.0
        search = self.searched if self._device.searches[-1] else 1.0
        return search * (self.lone if is_last else 1.0)


@pytest.fixture
def gpu(loaded: DiffusersPipeline, fake_device: FakeDevice) -> Iterator[Gpu]:
    found = Gpu(loaded, fake_device)
    yield found
    found._hook.remove()


def choose(loaded: DiffusersPipeline, gpu: Gpu, settings: Settings = SETTINGS) -> Convolutions:
    return choose_convolutions(loaded, denoiser_for(loaded), settings, gpu.seconds_of)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (Times(0.95, 1.0), True),
        (Times(1.0, 0.95), True),
        (Times(0.95, 1.02), True),
        (Times(0.96, 0.96), False),
        # As measured on an H200.
        (Times(0.85, 1.13), False),
        (Times(float("nan"), 0.5), False),
    ],
)
def test_an_option_must_save_time_and_cost_none(new: Times, expected: bool) -> None:
    assert improves(new, Times(1.0, 1.0)) is expected


@pytest.mark.parametrize(
    ("lone", "largest", "searched", "expected"),
    [
        (1.0, 1.0, 1.0, Convolutions()),
        (0.8, 1.0, 1.0, Convolutions(channels_last=True)),
        (0.8, 1.2, 1.0, Convolutions()),
        (1.0, 0.9, 1.0, Convolutions(channels_last=True)),
        (1.0, 1.0, 0.9, Convolutions(searches=True)),
        (0.8, 0.9, 0.9, Convolutions(channels_last=True, searches=True)),
    ],
)
def test_the_fastest_options_are_chosen(
    lone: float,
    largest: float,
    searched: float,
    expected: Convolutions,
    loaded: DiffusersPipeline,
    gpu: Gpu,
) -> None:
    gpu.lone, gpu.largest, gpu.searched = lone, largest, searched

    assert choose(loaded, gpu) == expected
    # A lone guided step, and the largest batch that is useful here.
    assert set(gpu.lanes) == {2, 4}


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_layout_of_the_operator_stays(
    channels_last: bool, loaded: DiffusersPipeline, gpu: Gpu
) -> None:
    gpu.lone = gpu.largest = 2.0 if channels_last else 0.5
    loaded.tuning = Tuning(channels_last=channels_last)

    chosen = choose(loaded, gpu, Settings(max_lanes=4, channels_last=channels_last))

    assert chosen == Convolutions(channels_last=channels_last)


def test_compiled_code_chooses_its_own_layout(loaded: DiffusersPipeline, gpu: Gpu) -> None:
    gpu.lone = gpu.largest = 0.5
    loaded.tuning = Tuning(compile=True)

    assert choose(loaded, gpu) == Convolutions()


def test_without_graphs_only_the_layout_is_measured(
    loaded: DiffusersPipeline, gpu: Gpu, fake_device: FakeDevice
) -> None:
    gpu.largest, gpu.searched = 0.5, 0.5

    chosen = choose(loaded, gpu, Settings(max_lanes=4, cuda_graphs="off"))

    assert chosen == Convolutions(channels_last=True)
    assert fake_device.graphs == []


def test_a_failed_measurement_changes_nothing(
    loaded: DiffusersPipeline,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("no graphs today\nand a stack")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    with caplog.at_level(logging.WARNING):
        assert choose(loaded, gpu) == Convolutions()

    assert caplog.messages == ["could not measure how convolutions run fastest: no graphs today"]


@torch.inference_mode()
def test_weights_in_another_layout_can_be_adapted_later(loaded: DiffusersPipeline) -> None:
    set_layout(loaded.diffusers.unet, channels_last=True)

    assert is_channels_last(loaded)
    assert not any(one.is_inference() for one in loaded.diffusers.unet.parameters())
