"""Conditions of all lanes as one tensor, kept while passes have the same lanes."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import torch


class _Stacked(NamedTuple):
    rows: tuple[torch.Tensor, ...]
    tensor: torch.Tensor


class StackedRows:
    """Stacks rows that rarely change from one pass to the next; used by one thread.

    To copy the embeddings of all prompts takes 2 % of a turn of 16 pictures of SD3 on a CPU.
    """

    def __init__(self) -> None:
        self._last: dict[str, _Stacked] = {}

    def of(self, name: str, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """The rows as ``torch.stack`` joins them; only the last tensor of each name is kept.

        The caller must not write to the rows or the result.
        """
        last = self._last.pop(name, None)
        if last is None or len(last.rows) != len(rows) or not all(map(is_, last.rows, rows)):
            last = None  # frees its memory for the next one
            last = _Stacked(tuple(rows), torch.stack(tuple(rows)))
        self._last[name] = last
        return last.tensor
