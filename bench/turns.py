"""Times what the engine's thread does in addition to the networks: admissions and updates.

``python -m bench.turns`` prints two rows for each model:

- CPU milliseconds of the thread to admit a request whose prompt is encoded already; the goal is at
  most 0.5;
- the share of a turn of 16 requests, with all schedulers of the model, that is not the network's;
  the goal is at most 0.01. This one needs a quiet machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from bench.capacity import demo_model
from bench.random_models import flux_on_a_cpu, stable_diffusion_3_on_a_cpu
from predictor.engine.capacity import Capacity
from predictor.engine.interfaces import Lane
from predictor.engine.job import Job
from predictor.engine.step_loop import StepEngine
from predictor.pipelines.schedulers import scheduler_names
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile

CROWD = 16
ADMISSIONS = 20
STEPS = 20


def main() -> None:
    """Measure each model and print its rows."""
    for name, build in MODELS.items():
        model = build()
        milliseconds = [1000 * one for one in admission_seconds(model, ADMISSIONS)]
        figures = {"median_ms": median(milliseconds), "least_ms": min(milliseconds)}
        _print(f"{name}, admission", figures)
        _print(f"{name}, largest turns", largest_turns(model))


def _print(row: str, figures: dict[str, float]) -> None:
    rounded = {name: round(figure, 4) for name, figure in figures.items()}
    print(f"{row} {json.dumps(rounded)}", flush=True)


def admission_seconds(model: DiffusersPipeline, number: int) -> list[float]:
    """CPU seconds of the engine's thread to admit each of ``number`` requests, one at a time.

    Each has another number of steps, and thus a plan of its own. The request that encodes the
    prompt is not among them.
    """
    request = model.profile.default_request("a red circle")
    requests = [
        replace(request, seed=index, num_inference_steps=1 + index) for index in range(number + 1)
    ]
    with _timed_engine(model) as engine:
        for one in requests:
            asyncio.run(_submit_all(engine, [one]))
    return engine.admissions[1:]


def largest_turns(model: DiffusersPipeline) -> dict[str, float]:
    """The pictures in the largest turns of a crowd, and the share that is not the network's."""
    request = model.profile.default_request("a red circle")
    crowd = [
        replace(
            request,
            seed=seed,
            num_inference_steps=STEPS + seed,
            scheduler=model.profile.schedulers[seed % len(model.profile.schedulers)],
            guidance_scale=2.0 + seed % 4,
        )
        for seed in range(CROWD)
    ]
    with _timed_engine(model) as engine:
        # The first time makes the plans, while requests join one by one.
        for _ in range(2):
            engine.turns.clear()
            asyncio.run(_submit_all(engine, crowd))
    pictures = max(turn[0] for turn in engine.turns)
    largest = [turn for turn in engine.turns if turn[0] == pictures]
    turns, networks = (sum(turn[part] for turn in largest) for part in (1, 2))
    return {"pictures": pictures, "not_the_network": 1 - networks / turns}


class _TimedEngine(StepEngine):
    """Notes ``admissions``, and of ``turns`` their pictures, their seconds and the network's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.admissions: list[float] = []
        self.turns: list[tuple[int, float, float]] = []
        self.network = 0.0
        super().__init__(*arguments, **options)

    def _admit(self) -> None:
        before, started = len(self._in_flight), time.thread_time()
        super()._admit()
        seconds, admitted = time.thread_time() - started, len(self._in_flight) - before
        self.admissions += [seconds / admitted] * admitted if admitted else []

    def _step(self, batch: list[Job]) -> None:
        started, self.network = time.perf_counter(), 0.0
        super()._step(batch)
        self.turns.append((len(batch), time.perf_counter() - started, self.network))


@contextmanager
def _timed_engine(model: DiffusersPipeline) -> Iterator[_TimedEngine]:
    denoiser: Any = denoiser_for(model)
    engine = _TimedEngine(denoiser, Capacity(2 * CROWD, 2**20, 1.0), max_queue_length=CROWD)
    predict = denoiser.predict

    def timed(lanes: Sequence[Lane]) -> torch.Tensor:
        started = time.perf_counter()
        prediction: torch.Tensor = predict(lanes)
        engine.network = time.perf_counter() - started
        return prediction

    denoiser.predict = timed
    try:
        yield engine
    finally:
        engine.close()


async def _submit_all(engine: StepEngine, requests: list[GenerationRequest]) -> None:
    await asyncio.gather(*(engine.submit(one) for one in requests))


def random_model(build: Callable[[], Any]) -> DiffusersPipeline:
    """Random weights for pictures of 128x128 pixels, with all schedulers of the model."""
    torch.manual_seed(0)
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(128, 128, STEPS, 5.0, "euler")
    return DiffusersPipeline(
        pipeline, ModelProfile("random", defaults, 16, scheduler_names(pipeline.scheduler))
    )


MODELS: dict[str, Callable[[], DiffusersPipeline]] = {
    "demo model": demo_model,
    "SD3 shapes": lambda: random_model(stable_diffusion_3_on_a_cpu),
    "FLUX shapes": lambda: random_model(flux_on_a_cpu),
}


if __name__ == "__main__":
    main()
