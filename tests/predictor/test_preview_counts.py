"""What a preview adds on a GPU: counted on a GPU that a CPU pretends to be."""

from __future__ import annotations

import asyncio

import pytest

from predictor.engine.interfaces import Previews
from predictor.requests import Preview
from tests.predictor.pretended_gpu import PretendedGpu
from tests.predictor.test_gpu_counts import (
    FAMILIES,
    REQUEST,
    Calls,
    gpu,
    inference_mode,
    jobs_of,
    turn_of,
)

__all__ = ["gpu", "inference_mode"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of NumPy
@pytest.mark.parametrize("family", ["Stable Diffusion", "inpainting", "Stable Diffusion 3"])
def test_a_preview_adds_a_few_kernels_and_no_wait(gpu: PretendedGpu, family: str) -> None:
    build, request, most_kernels = FAMILIES[family]
    denoiser = build(gpu)
    with gpu.watched("start"):
        plain, previewed = (jobs_of(denoiser, request, 4) for _ in range(2))
    # The turns that count are the second ones.
    previewed[1]._preview_steps = (2,)

    without = turn_of(gpu, denoiser, plain, most_kernels)
    counts = turn_of(gpu, denoiser, previewed, most_kernels + 6)

    assert previewed[1].predicted is not None
    assert all(job.predicted is None for job in [previewed[0], *previewed[2:], *plain])
    assert without.kernels < counts.kernels <= without.kernels + 6, counts.names
    assert counts.uploads == without.uploads
    assert counts.waits == counts.event_waits == counts.downloads == 0, counts.where


def test_the_engines_thread_does_not_wait_for_a_preview(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, shown = Calls(gpu, monkeypatch), list[Preview]()

    try:
        asyncio.run(calls.engine.submit(REQUEST, calls._note_step, Previews(3, shown.append)))
    finally:
        calls.engine.close()

    engine, finisher = gpu.counts["engine"], gpu.counts["finisher"]
    assert [preview.step for preview in shown] == [1, 2, 3]
    assert engine.waits == 0, engine.where
    assert engine.event_waits == calls.events.count("pass") == 4
    # The copy of each preview, and that of the picture, has its own event.
    assert finisher.event_waits == 4
    assert finisher.waits == finisher.kernels == 0, finisher.names
