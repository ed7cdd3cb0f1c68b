"""Each thread keeps its own number of CPU threads for torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from predictor.engine import cpu_threads
from predictor.engine.cpu_threads import use_cpu_threads
from tests.predictor.fake_denoiser import FakeDenoiser, request, run_story

MANY = 3


def test_a_thread_that_starts_later_does_not_change_the_number() -> None:
    with (
        ThreadPoolExecutor(1, initializer=use_cpu_threads, initargs=(MANY,)) as engine,
        cpu_threads.pool(1, "finisher") as finisher,
    ):
        engine.submit(int).result()
        assert finisher.submit(torch.get_num_threads).result() == 1
        assert engine.submit(torch.get_num_threads).result() == MANY


def test_the_engine_steps_on_all_cores_while_others_prepare_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_threads, "ALL", MANY)
    counts: dict[str, int] = {}

    class Counting(FakeDenoiser):
        def prepare(self, *arguments: Any) -> Any:
            counts["preparer"] = torch.get_num_threads()
            return super().prepare(*arguments)

        def predict(self, *arguments: Any) -> Any:
            counts["engine"] = torch.get_num_threads()
            return super().predict(*arguments)

    async def story(scene: Any) -> None:
        tasks = await scene.submit_all(request("any"))
        scene.run_free()
        await tasks[0]

    run_story(story, Counting())

    assert counts == {"preparer": 1, "engine": MANY}
