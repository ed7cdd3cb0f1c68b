"""One step of all jobs in a batch: their lanes, then one update for all of them.

The number of operations does not depend on the number of jobs, nor on their schedulers: a GPU would
otherwise spend more time between two forward passes than in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from predictor.engine.denoising import SchedulerSteps
from predictor.engine.faults import raise_if_device_is_lost
from predictor.engine.guidance import guided, per_job
from predictor.engine.interfaces import Lane
from predictor.engine.job import Job
from predictor.engine.plan import COLUMNS, ROWS, Plan

# Columns of the uploaded numbers: input scale, levels of signal and noise, update, guidance scale
# and rescale.
_LEVELS = slice(1, 3)
_UPDATE = slice(3, 3 + ROWS * COLUMNS)
_GUIDANCE = 3 + ROWS * COLUMNS
_RESCALE = _GUIDANCE + 1


class Turn:
    """A forward pass of jobs of one kind and shape, and what follows it.

    Jobs with a plan advance together, the others one by one.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._planned = [job for job in jobs if job.denoising.plan is not None]
        self._others = [job for job in jobs if job.denoising.plan is None]
        self._device = jobs[0].denoising.latents.device
        self._numbers = self._upload(self._rows()) if self._planned else torch.empty(0)
        self._states = (
            torch.stack([job.denoising.state for job in self._planned])
            if self._planned
            else torch.empty(0)
        )

    def lanes(self) -> list[Lane]:
        """The lanes of all jobs, in the order that ``advance`` expects of their predictions."""
        inputs = [*self._planned_inputs(), *(job.denoising.model_input() for job in self._others)]
        jobs = [*self._planned, *self._others]
        return [lane for job, one in zip(jobs, inputs, strict=True) for lane in job.lanes_of(one)]

    def advance(self, predictions: torch.Tensor) -> None:
        """Take one step with the predictions for the lanes; a job that fails alone gets its error.

        If this raises, no job has changed.
        """
        planned = sum(job.lanes for job in self._planned)
        if self._planned:
            self._advance_together(predictions[:planned])
        start = planned
        for job in self._others:
            _advance_alone(job, predictions[start : start + job.lanes])
            start += job.lanes

    def _rows(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        rows = np.empty((len(self._planned), _RESCALE + 1), dtype=np.float32)
        for row, job in zip(rows, self._planned, strict=True):
            row[:_GUIDANCE] = _plan_of(job).table[job.denoising.step]
            row[_GUIDANCE] = job.ticket.cfg_scale
            row[_RESCALE] = job.ticket.request.guidance_rescale or 0
        return rows

    def _upload(self, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> torch.Tensor:
        """Copy to the device without waiting for it."""
        host = torch.from_numpy(array)
        if self._device.type != "cuda":
            return host
        return host.pin_memory().to(self._device, non_blocking=True)

    def _planned_inputs(self) -> Sequence[torch.Tensor]:
        if not self._planned:
            return []
        scaled = self._states[:, 0] * per_job(self._numbers[:, 0])
        extra = [job.denoising.extra_channels for job in self._planned]
        channels = [one for one in extra if one is not None]
        if channels:
            scaled = torch.cat([scaled, torch.cat(channels)], dim=1)
        return scaled.chunk(len(self._planned))

    def _advance_together(self, predictions: torch.Tensor) -> None:
        rescales = any(job.ticket.request.guidance_rescale for job in self._planned)
        prediction = guided(
            predictions.float(),
            [job.lanes for job in self._planned],
            self._numbers[:, _GUIDANCE],
            self._numbers[:, _RESCALE] if rescales else None,
        )
        values = [self._states.flatten(2), prediction.flatten(1).unsqueeze(1), *self._noise()]
        columns = torch.cat(values, dim=1)
        update = self._numbers[:, _UPDATE].view(-1, ROWS, COLUMNS)[:, :, : columns.shape[1]]
        with _ieee_float32(self._device):
            states = torch.bmm(update, columns).view_as(self._states)
        self._restore(states)
        for job, state in zip(self._planned, states.unbind(), strict=True):
            job.move_to(state)

    def _noise(self) -> list[torch.Tensor]:
        """``(jobs, 1, numbers)`` if a job draws noise in this step."""
        drawing = [
            (index, job.denoising, draw)
            for index, job in enumerate(self._planned)
            if (draw := _plan_of(job).draws[job.denoising.step]) != "none"
        ]
        if not drawing:
            return []
        shape = self._states.shape[2:]
        noise = np.zeros((len(self._planned), 1, shape.numel()), dtype=np.float32)
        for index, denoising, draw in drawing:
            dtype = torch.float32 if draw == "float32" else denoising.noise_dtype
            drawn = torch.randn((1, *shape), generator=denoising.generator, dtype=dtype)
            noise[index, 0] = drawn.float().flatten().numpy()
        return [self._upload(noise)]

    def _restore(self, states: torch.Tensor) -> None:
        """Restore the area outside the mask of inpainted pictures."""
        inpainted = [job.denoising.inpainting for job in self._planned]
        if not any(one is not None for one in inpainted):
            return
        latents = states[:, 0]
        nothing = latents.new_zeros(1).expand_as(latents[:1])
        everything = latents.new_ones(1).expand_as(latents[:1, :1])
        clean, noise, mask = (
            torch.cat(parts)
            for parts in zip(
                *(one or (nothing, nothing, everything) for one in inpainted), strict=True
            )
        )
        signal_level, noise_level = self._numbers[:, _LEVELS].unbind(1)
        kept = per_job(signal_level) * clean + per_job(noise_level) * noise
        states[:, 0] = torch.lerp(kept, latents, mask)


def _plan_of(job: Job) -> Plan:
    plan = job.denoising.plan
    assert plan is not None
    return plan


def _advance_alone(job: Job, predictions: torch.Tensor) -> None:
    denoising = job.denoising
    sampler = denoising.sampler
    assert isinstance(sampler, SchedulerSteps)
    request = job.ticket.request
    scale, rescale = predictions.new_tensor([job.ticket.cfg_scale, request.guidance_rescale or 0])
    try:
        prediction = guided(
            predictions, [job.lanes], scale, rescale if request.guidance_rescale else None
        )
        latents = sampler.stepped(
            denoising.latents, prediction, denoising.step, denoising.generator
        )
        if denoising.inpainting is not None:
            clean, noise, mask = denoising.inpainting
            after = denoising.step + 1
            kept = sampler.add_noise(clean, noise, after) if after < denoising.steps else clean
            latents = (1 - mask) * kept + mask * latents
    except Exception as error:
        raise_if_device_is_lost(error)
        job.fail(error)
        return
    job.move_to(latents)


@contextmanager
def _ieee_float32(device: torch.device) -> Iterator[None]:
    """TensorFloat-32 keeps 10 bits of a factor: enough for a layer, not for the latents."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    allowed, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        yield
    finally:
        matmul.allow_tf32 = allowed
