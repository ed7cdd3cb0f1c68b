"""Derives plans from diffusers' schedulers, which stay the only source of their formulas.

A probe drives the scheduler with basis vectors in place of pictures: what comes out are the
coefficients. Each plan is then compared with the scheduler on random data, because clipping and
thresholding are not linear.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch.overrides import TorchFunctionMode

from predictor.engine.clean_sample import CleanWeights, clean_weights
from predictor.engine.denoising import (
    SchedulerSteps,
    Steps,
    accepted_arguments,
    level_of,
    scaled_input,
)
from predictor.engine.plan import COLUMNS, MAX_KEPT, ROWS, Draw, Plan
from predictor.metrics import PLAN_FALLBACKS
from predictor.pipelines.schedulers import make_scheduler

logger = logging.getLogger(__name__)

# The columns of a probe: the sample, the prediction and the noise, then the kept tensors.
_SAMPLE, _PREDICTION, _NOISE, _KEPT = 0, 1, 2, 3
_WIDTH = _KEPT + 9
_SHAPE = (1, 1, 1, _WIDTH)
_CHECKED_SHAPE = (1, 4, 4, 4)
# Relative to the largest value of the sample, over a whole run.
_TOLERANCE = 1e-5
_MAX_CACHED = 256


class NotLinearError(Exception):
    """The scheduler's steps are not the linear maps that a plan can hold."""


class Run(NamedTuple):
    """What determines a plan of a model: the passes from ``first`` on of a scheduler by name.

    ``mu`` is the shift of the noise levels for the size of the picture, for schedulers with
    ``use_dynamic_shifting``. ``is_linear`` sets noise levels from 1 to 1 / steps, before any shift.
    """

    scheduler: str
    num_inference_steps: int
    first: int = 0
    mu: float | None = None
    is_linear: bool = False

    def set_timesteps(self, scheduler: Any) -> None:
        """Set the timesteps of a scheduler as diffusers' pipeline for the model does."""
        steps = self.num_inference_steps
        options: dict[str, Any] = {}
        if self.mu is not None:
            options["mu"] = self.mu
        if self.is_linear:
            options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(steps, **options)


class Plans:
    """The plans of one model's schedulers, cached; any thread may call it.

    ``own`` is the model's scheduler.
    """

    def __init__(self, own: SchedulerMixin) -> None:
        self._own = own
        self._plans: OrderedDict[Run, Plan | None] = OrderedDict()
        self._examples: dict[str, Any] = {}
        self._lock = threading.Lock()

    def order(self, scheduler: str) -> int:
        """The number of forward passes in one step of the scheduler of that name."""
        return int(self.example(scheduler).order)

    def example(self, scheduler: str) -> Any:
        """A scheduler of that name, only to inspect it."""
        if scheduler not in self._examples:
            self._examples[scheduler] = make_scheduler(scheduler, self._own)
        return self._examples[scheduler]

    def steps(self, run: Run) -> Steps:
        """The plan of this run, or steps with a scheduler of their own where no plan fits."""
        plan = self._plan(run)
        if plan is not None:
            return plan
        scheduler = self._scheduler(run)
        return SchedulerSteps(scheduler, scheduler.timesteps[run.first :])

    def _plan(self, run: Run) -> Plan | None:
        with self._lock:
            if run in self._plans:
                self._plans.move_to_end(run)
                return self._plans[run]
        plan = _plan_or_none(run, partial(self._scheduler, run))
        with self._lock:
            self._plans[run] = plan
            if len(self._plans) > _MAX_CACHED:
                self._plans.popitem(last=False)
        return plan

    def _scheduler(self, run: Run) -> Any:
        """A scheduler that begins at the first pass of the run."""
        scheduler: Any = make_scheduler(run.scheduler, self._own)
        run.set_timesteps(scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(run.first)
        return scheduler


def _plan_or_none(run: Run, make: Callable[[], Any]) -> Plan | None:
    try:
        return make_plan(make, run.first)
    except Exception as error:  # a scheduler may fail a probe in any way
        PLAN_FALLBACKS.labels(run.scheduler).inc()
        logger.warning(
            "the scheduler %s steps each picture on its own for %d steps: %s",
            *(run.scheduler, run.num_inference_steps, error),
        )
        return None


def make_plan(make: Callable[[], Any], first: int) -> Plan:
    """Probe one scheduler from ``make``, and compare the plan with another one.

    ``make`` returns a scheduler that begins at the index ``first`` of its timesteps.

    Raises:
        NotLinearError: the plan does not reproduce the scheduler.
    """
    with torch.inference_mode():
        scheduler = make()
        timesteps = scheduler.timesteps[first:]
        probed = list(_probe(scheduler, timesteps))
        plan = Plan(
            timesteps=timesteps.cpu(),
            input_scales=tuple(step.input_scale for step in probed),
            updates=_updates(probed),
            draws=tuple(step.draw for step in probed),
            levels=tuple(step.level for step in probed),
            clean=tuple(step.clean for step in probed),
            init_noise_sigma=float(getattr(scheduler, "init_noise_sigma", 1.0)),
        )
        _check(plan, make())
    return plan


class _Step(NamedTuple):
    """What a probe finds out about one step.

    ``update`` is ``(1 + tensors kept after it, _WIDTH)``, in the order of the columns above.
    """

    input_scale: float
    level: tuple[float, float]
    clean: CleanWeights
    update: torch.Tensor
    draw: Draw


def _probe(scheduler: Any, timesteps: torch.Tensor) -> Iterator[_Step]:
    arguments = accepted_arguments(scheduler.step, eta=0.0, generator=None)
    for timestep in timesteps:
        level = level_of(scheduler, timestep)
        _replace_kept(scheduler)
        scaled = scaled_input(scheduler, _basis(_SAMPLE), timestep).flatten()
        with _Noise(_basis(_NOISE)) as noise:
            sample = scheduler.step(
                _basis(_PREDICTION), timestep, _basis(_SAMPLE), **arguments, return_dict=False
            )[0]
        if len(noise.draws) > 1:
            raise NotLinearError("a step draws noise more than once")
        kept = {id(tensor): tensor for _, tensor in _kept(scheduler)}
        update = torch.stack([one.flatten().double() for one in (sample, *kept.values())])
        clean = clean_weights(scheduler, level)
        yield _Step(float(scaled[_SAMPLE]), level, clean, update, (*noise.draws, "none")[0])


def _basis(index: int) -> torch.Tensor:
    return torch.eye(_WIDTH, dtype=torch.float64)[index].reshape(_SHAPE)


class _Slot(NamedTuple):
    """Where a scheduler keeps a tensor: in an attribute, or in a list in an attribute."""

    attribute: str
    position: int | None

    def set(self, scheduler: Any, tensor: torch.Tensor) -> None:
        if self.position is None:
            setattr(scheduler, self.attribute, tensor)
        else:
            getattr(scheduler, self.attribute)[self.position] = tensor


def _kept(scheduler: Any) -> Iterator[tuple[_Slot, torch.Tensor]]:
    for name, value in vars(scheduler).items():
        values = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, one in values:
            if isinstance(one, torch.Tensor) and one.shape == _SHAPE:
                yield _Slot(name, index), one


def _replace_kept(scheduler: Any) -> None:
    """Put a basis vector in place of each kept tensor; one tensor in two places stays one."""
    columns: dict[int, int] = {}
    for slot, tensor in list(_kept(scheduler)):
        column = columns.setdefault(id(tensor), _KEPT + len(columns))
        if column >= _WIDTH:
            raise NotLinearError("it keeps too many tensors")
        slot.set(scheduler, _basis(column))


class _Noise(TorchFunctionMode):
    """Answers ``torch.randn`` in this thread with ``noise``."""

    def __init__(self, noise: torch.Tensor) -> None:
        super().__init__()
        self._noise = noise
        self.draws: list[Draw] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        dtype = (kwargs or {}).get("dtype")
        self.draws.append("float32" if dtype == torch.float32 else "weights")
        return self._noise


def _updates(steps: Sequence[_Step]) -> torch.Tensor:
    """The matrices of a plan, without the kept tensors that no later step reads."""
    updates = torch.zeros(len(steps), ROWS, COLUMNS, dtype=torch.float64)
    read_later: list[int] = []
    for number, step in reversed(list(enumerate(steps))):
        rows = step.update[[0, *(1 + index for index in read_later)]]
        read = [index for index in range(_WIDTH - _KEPT) if rows[:, _KEPT + index].any()]
        if len(read) > MAX_KEPT:
            raise NotLinearError(f"it keeps more than {MAX_KEPT} tensors")
        columns = [_SAMPLE, *(_KEPT + index for index in read)]
        updates[number, : len(rows), : len(columns)] = rows[:, columns]
        updates[number, : len(rows), ROWS:] = rows[:, [_PREDICTION, _NOISE]]
        read_later = read
    return updates.float()


def _check(plan: Plan, scheduler: Any) -> None:
    """Run the scheduler and the plan on the same random data.

    Raises:
        NotLinearError: they differ.
    """
    arguments = accepted_arguments(scheduler.step, eta=0.0, generator=None)
    random = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        # Not ``torch.randn``, which the noise below replaces.
        return torch.empty(_CHECKED_SHAPE, dtype=torch.float64).normal_(generator=random)

    sample = normal() * plan.init_noise_sigma
    state = torch.zeros(ROWS, sample.numel(), dtype=torch.float64)
    state[0] = sample.flatten()
    for number, timestep in enumerate(plan.timesteps):
        prediction, drawn = normal(), normal()
        with _Noise(drawn):
            scaled_input(scheduler, sample, timestep)
            sample = scheduler.step(prediction, timestep, sample, **arguments, return_dict=False)[0]
        state = plan.updates[number].double() @ torch.stack(
            [*state, prediction.flatten(), drawn.flatten()]
        )
        scale = max(1.0, float(sample.abs().max()))
        if not float((sample.flatten() - state[0]).abs().max()) <= _TOLERANCE * scale:
            raise NotLinearError(f"step {number + 1} of {len(plan.draws)} is not linear")
