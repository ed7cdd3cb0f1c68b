"""The KServe model itself: how it loads."""

from __future__ import annotations

import threading
import time

import pytest

import predictor.model
from predictor.model import DiffusionModel, Loaded
from predictor.settings import Settings


def test_the_loading_thread_ends_with_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Loaded(engine=None, profile=None)  # type: ignore[arg-type]
    monkeypatch.setattr(predictor.model, "load", lambda settings: loaded)
    model = DiffusionModel("any", Settings())

    model.start()
    assert model.loading is not None
    model.loading.result(timeout=5)

    assert model.load()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("loader") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "its OpenMP pool slows the engine down"
        time.sleep(0.01)
