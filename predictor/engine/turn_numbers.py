"""The numbers that a turn needs on the device: one small copy, whatever the number of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from predictor.engine.guidance import weights_of
from predictor.engine.job import Job
from predictor.engine.plan import COLUMNS, ROWS
from predictor.engine.transfers import host_memory, upload

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

# The columns of ``TurnNumbers.updates``: the state, both lanes of the prediction, the noise.
_COLUMNS = COLUMNS + 1
_PREDICTION = ROWS
# For each job: input scale, levels of signal and noise, guidance scale and rescale; the update.
_SCALARS = 5
_WIDTH = _SCALARS + ROWS * _COLUMNS


class TurnNumbers:
    """Per job of a turn, on the device; float32 except ``lanes``.

    ``input_scales``, ``guidance_scales`` and ``guidance_rescales`` are ``(jobs,)``. ``levels``,
    ``(jobs, 2)``, are the weights of a clean sample and of noise after the step. ``updates``,
    ``(jobs, ROWS, ROWS + 3)``, are those of the plans with the guidance scale in them: their
    columns are the state, the first and the last lane of the prediction, and the noise. ``lanes``,
    ``(2 * jobs,)`` of int32, are the indices of these lanes in the predictions of all jobs.
    """

    def __init__(self, jobs: Sequence[Job], device: torch.device) -> None:
        floats = len(jobs) * _WIDTH
        host = host_memory((floats + 2 * len(jobs),), device)
        _write(_Parts(host, len(jobs)), jobs)
        uploaded = _Parts(upload(host, device), len(jobs))
        self.lanes = uploaded.lanes
        self.input_scales = uploaded.scalars[:, 0]
        self.levels = uploaded.scalars[:, 1:3]
        self.guidance_scales = uploaded.scalars[:, 3]
        self.guidance_rescales = uploaded.scalars[:, 4]
        self.updates = uploaded.updates


class _Parts:
    """Views of the memory."""

    def __init__(self, memory: torch.Tensor, jobs: int) -> None:
        floats, lanes = memory.tensor_split([jobs * _WIDTH])
        self.scalars, updates = floats.view(jobs, _WIDTH).tensor_split([_SCALARS], dim=1)
        self.updates = updates.view(jobs, ROWS, _COLUMNS)
        self.lanes = lanes.view(torch.int32)


def _write(parts: _Parts, jobs: Sequence[Job]) -> None:
    rows = np.stack([_row_of(job) for job in jobs])
    requests = [job.ticket.request for job in jobs]
    scalars = parts.scalars.numpy()
    scalars[:, :3] = rows[:, :3]
    scalars[:, 3] = [job.ticket.cfg_scale for job in jobs]
    scalars[:, 4] = [request.guidance_rescale or 0 for request in requests]
    counts = np.array([job.lanes for job in jobs], dtype=np.int32)
    planned = rows[:, 3:].reshape(-1, ROWS, COLUMNS)
    prediction = planned[:, :, _PREDICTION, None] * weights_of(scalars[:, 3], counts)[:, None]
    updates = parts.updates.numpy()
    updates[:, :, :_PREDICTION] = planned[:, :, :_PREDICTION]
    updates[:, :, _PREDICTION : _PREDICTION + 2] = prediction
    updates[:, :, -1] = planned[:, :, -1]
    ends = counts.cumsum(dtype=np.int32)
    parts.lanes.numpy()[:] = np.stack([ends - counts, ends - 1], axis=1).flatten()


def _row_of(job: Job) -> Floats:
    plan = job.denoising.plan
    assert plan is not None
    row: Floats = plan.table[job.denoising.step]
    return row
