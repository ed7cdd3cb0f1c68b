"""The update of a turn is computed in IEEE float32, whatever the operator allows for layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from predictor.engine.turn import _ieee_float32

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    yield
    matmul.allow_tf32 = before


def test_updates_do_not_use_tf32() -> None:
    with _ieee_float32(GPU):
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32

    with _ieee_float32(torch.device("cpu")):
        assert torch.backends.cuda.matmul.allow_tf32


def test_two_engines_leave_tf32_as_it_was() -> None:
    has_entered, may_leave = threading.Event(), threading.Event()

    def other_engine() -> None:
        with _ieee_float32(GPU):
            has_entered.set()
            may_leave.wait()

    thread = threading.Thread(target=other_engine, daemon=True)
    with _ieee_float32(GPU):
        thread.start()
        # Only a lock keeps the other engine out.
        assert not has_entered.wait(0.2)
    may_leave.set()
    thread.join()

    assert torch.backends.cuda.matmul.allow_tf32
