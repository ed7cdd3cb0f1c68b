"""One step of all jobs in a batch: their lanes, then one update for all of them.

The number of operations does not depend on the number of jobs, nor on their schedulers: a GPU would
otherwise spend more time between two forward passes than in them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from predictor.engine.denoising import SchedulerSteps
from predictor.engine.faults import raise_if_device_is_lost
from predictor.engine.guidance import guided, per_picture, rescaled
from predictor.engine.interfaces import Lane
from predictor.engine.job import Job
from predictor.engine.transfers import host_memory, upload
from predictor.engine.turn_numbers import TurnNumbers

# The switch of TensorFloat-32 belongs to the process, and each model has an engine's thread.
_TF32_SWITCH = threading.Lock()


class Turn:
    """A forward pass of jobs of one kind and shape, and what follows it.

    Jobs with a plan advance together, the others one by one.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        planned = [job for job in jobs if job.denoising.plan is not None]
        # Inpainted pictures come first, so that their states are one slice.
        self._planned = sorted(planned, key=lambda job: job.denoising.inpainting is None)
        self._others = [job for job in jobs if job.denoising.plan is None]
        self._device = jobs[0].denoising.latents.device
        if planned:
            self._numbers = TurnNumbers(self._planned, self._device)
            self._states = torch.stack([job.denoising.state for job in self._planned])

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

    def _planned_inputs(self) -> Sequence[torch.Tensor]:
        if not self._planned:
            return []
        latents = self._states[:, 0]
        # One operation multiplies in float32 and rounds to the dtype of the weights.
        scaled = latents.new_empty(latents.shape, dtype=self._planned[0].denoising.weights_dtype)
        torch.mul(latents, per_picture(self._numbers.input_scales), out=scaled)
        extra = [job.denoising.extra_channels for job in self._planned]
        channels = [one for one in extra if one is not None]
        if channels:
            scaled = torch.cat([scaled, torch.cat(channels)], dim=1)
        return scaled.chunk(len(self._planned))

    def _advance_together(self, predictions: torch.Tensor) -> None:
        pairs = predictions.float().index_select(0, self._numbers.lanes)
        pairs = pairs.view(len(self._planned), 2, *predictions.shape[1:])
        if any(job.ticket.request.guidance_rescale for job in self._planned):
            pairs = rescaled(pairs, self._numbers.guidance_scales, self._numbers.guidance_rescales)
        columns = torch.cat([self._states.flatten(2), pairs.flatten(2), *self._noise()], dim=1)
        update = self._numbers.updates[:, :, : columns.shape[1]]
        with _ieee_float32(self._device):
            states = torch.bmm(update, columns).view_as(self._states)
            self._restore(states)
        self._predict(pairs)
        for job, state in zip(self._planned, states.unbind(), strict=True):
            job.move_to(state)

    def _predict(self, pairs: torch.Tensor) -> None:
        """Note what the pictures with a preview would be without noise."""
        for index, job in enumerate(self._planned):
            if job.has_preview:
                job.predict(guided(pairs[index, 2 - job.lanes :], job.ticket.cfg_scale, 0))

    def _noise(self) -> list[torch.Tensor]:
        """``(jobs, 1, numbers)`` if a job draws noise in this step."""
        drawn = [job.denoising.next_noise() for job in self._planned]
        if all(one is None for one in drawn):
            return []
        host = host_memory((len(drawn), 1, self._states[0, 0].numel()), self._device)
        for row, one in zip(host.numpy(), drawn, strict=True):
            row[0] = 0 if one is None else one
        return [upload(host, self._device)]

    def _restore(self, states: torch.Tensor) -> None:
        """Restore the area outside the mask of inpainted pictures."""
        inpainted = [one for job in self._planned if (one := job.denoising.inpainting) is not None]
        if not inpainted:
            return
        originals = torch.stack([one.original for one in inpainted])
        masks = torch.cat([one.mask for one in inpainted])
        levels = self._numbers.levels[: len(inpainted)].unsqueeze(1)
        latents = states[: len(inpainted), 0]
        kept = torch.bmm(levels, originals.flatten(2)).view(latents.shape)
        torch.lerp(kept, latents, masks, out=latents)


def _advance_alone(job: Job, predictions: torch.Tensor) -> None:
    denoising = job.denoising
    sampler = denoising.sampler
    assert isinstance(sampler, SchedulerSteps)
    request = job.ticket.request
    try:
        prediction = guided(predictions, job.ticket.cfg_scale, request.guidance_rescale or 0)
        if job.has_preview:
            job.predict(prediction)
        latents = sampler.stepped(
            denoising.latents, prediction, denoising.step, denoising.generator
        )
        if denoising.inpainting is not None:
            clean, noise = denoising.inpainting.original.chunk(2)
            mask = denoising.inpainting.mask
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
    with _TF32_SWITCH:
        allowed, matmul.allow_tf32 = matmul.allow_tf32, False
        try:
            yield
        finally:
            matmul.allow_tf32 = allowed
