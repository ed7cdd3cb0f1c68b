"""A load that runs out of memory: a sentence for the operator, and no effect on other models."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError, ModelUnavailableError
from predictor.loading import engine as engines
from predictor.loading import memory
from predictor.loading.engine import Learned
from predictor.loading.loader import Loaded, load
from predictor.residency import Residency
from predictor.settings import Settings
from tests.predictor.test_residency import FakeLoader

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: not enough memory")
SETTINGS = Settings(max_lanes=2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def as_diffusers_does(*_: Any) -> Any:
    """Hide the cause, as diffusers and transformers do when a file of weights does not load."""
    try:
        raise MemoryError
    except MemoryError:
        raise OSError("Unable to load weights from checkpoint file") from None


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "stage",
    ["predictor.loading.pipeline._read_weights", "predictor.loading.engine._open_step_engine"],
    ids=["reading", "warming up"],
)
@pytest.mark.parametrize(
    ("fail", "owner"),
    [
        (raising(MemoryError()), "the container"),
        (raising(CPU), "the container"),
        (as_diffusers_does, "the container"),
        (raising(GPU), "the GPU"),
        (raising(torch.AcceleratorError("CUDA error: out of memory")), "the GPU"),
    ],
    ids=["python", "torch", "hidden", "gpu", "driver"],
)
def test_a_shortage_of_memory_is_a_sentence(
    demo_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    fail: Callable[..., Any],
    owner: str,
) -> None:
    monkeypatch.setattr(stage, fail)

    with pytest.raises(ModelLoadError) as failed:
        load(Checkpoint.read(demo_model), SETTINGS, Learned())

    start = f"model 'stable-diffusion' does not load: {owner} has too little free memory; "
    assert str(failed.value).startswith(start)


def test_another_fault_keeps_its_own_sentence(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "predictor.loading.pipeline._read_weights", raising(RuntimeError("broken header"))
    )

    with pytest.raises(ModelLoadError, match=r"does not load: broken header$"):
        load(Checkpoint.read(demo_model), SETTINGS, Learned())


class ShortLoader(FakeLoader):
    """Loads real pipelines; memory runs out in the warm-up of the first one."""

    def __init__(self) -> None:
        super().__init__(budget=math.inf)
        self.pipelines: list[weakref.ref[Any]] = []

    def read(self, folder: Path) -> Checkpoint:
        return Checkpoint.read(folder)

    def load(self, checkpoint: Checkpoint, on_read: Callable[[], object]) -> Loaded:
        return load(checkpoint, SETTINGS, Learned(), self._open_engine, on_read)

    def release(self) -> None:
        memory.release_memory()

    def _open_engine(self, pipeline: Any, *arguments: Any) -> Any:
        self.pipelines.append(weakref.ref(pipeline.diffusers))
        if len(self.pipelines) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return engines.open_engine(pipeline, *arguments)


@pytest.fixture
def links(demo_model: Path, tmp_path: Path) -> dict[str, Path]:
    """The demo model under two names."""
    found = {name: tmp_path / name for name in "ab"}
    for link in found.values():
        link.symlink_to(demo_model.resolve())
    return found


@pytest.mark.anyio
async def test_a_load_without_memory_is_freed_and_other_models_are_served(
    links: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    loader = ShortLoader()
    models = Residency(loader, max_wait_seconds=60, max_waiters=8)
    for name, link in links.items():
        models.add(name, link)

    with pytest.raises(ModelUnavailableError) as refused:
        async with models.use("a"):
            pass
    freed = loader.pipelines[0]() is None
    async with models.use("b"):
        states = [models[name].state for name in links]

    assert str(refused.value) == "model 'a' could not be loaded; the log has the cause"
    assert "the GPU has too little free memory" in caplog.text
    assert freed
    assert states == ["UNAVAILABLE", "READY"]
    assert models["a"].failure is not None
    models["a"].failure = models["a"].failure._replace(retry_at=0)
    async with models.use("a"):
        assert models["a"].failure is None
    for name in links:
        await models.unload(name)
