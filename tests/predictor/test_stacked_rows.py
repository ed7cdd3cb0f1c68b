"""Conditions are copied once for all passes with the same lanes."""

from __future__ import annotations

import gc
from weakref import ref

import torch

from predictor.pipelines.stacked_rows import StackedRows


def test_the_same_rows_are_stacked_once() -> None:
    stacked, rows = StackedRows(), [torch.ones(2), torch.zeros(2)]

    first = stacked.of("any", rows)

    assert torch.equal(first, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert stacked.of("any", list(rows)) is first
    assert stacked.of("other", rows) is not first
    assert stacked.of("any", rows) is first


def test_other_rows_replace_the_last_ones() -> None:
    """A picture that joins, leaves or changes places changes the rows."""
    stacked, a, b = StackedRows(), torch.ones(2), torch.zeros(2)

    for rows in ([a, b], [b, a], [b], [b, b], [b, b.clone()]):
        before = ref(stacked.of("any", [a, a, a]))
        assert torch.equal(stacked.of("any", rows), torch.stack(rows))
        gc.collect()
        assert before() is None
