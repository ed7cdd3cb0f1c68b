"""Samplers and schedules in the terms of A1111, and the ``scheduler`` that a pair stands for.

Since version 1.9, A1111 has a field for each: "DPM++ 2M Karras" is also the sampler "DPM++ 2M" with
the schedule "Karras". Both forms are accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from predictor.errors import InvalidRequestError
from predictor.requests.sampler_names import EQUIVALENTS, scheduler_of
from predictor.requests.validation import shortened

_KARRAS = "Karras"
# ``Normal`` and ``Uniform`` space the timesteps evenly, as diffusers' schedulers do.
SCHEDULES = ("Automatic", _KARRAS, "Normal", "Uniform")
# A1111 ignores the schedule for these.
_ONE_SCHEDULE = {"ddim", "pndm", "unipc"}
_SAMPLERS = {name: sampler for sampler, name in EQUIVALENTS.items()}


def scheduler_of_pair(sampler: str | None, schedule: str | None) -> str | None:
    """The ``scheduler`` for a sampler and a schedule; None for that of the model.

    A sampler that is not known is returned for ``Limits`` to refuse.

    Raises:
        InvalidRequestError: the schedule is not known, or the sampler does not have it.
    """
    named = {one.lower(): one for one in SCHEDULES}
    if schedule and schedule.lower() not in named:
        raise InvalidRequestError(
            "scheduler", f"{shortened(schedule)} is not one of {', '.join(SCHEDULES)}"
        )
    if named.get((schedule or "").lower()) != _KARRAS:
        return scheduler_of(sampler) if sampler else None
    if not sampler:
        raise InvalidRequestError("scheduler", "requires `sampler_name`")
    return _with_karras(sampler)


def _with_karras(sampler: str) -> str:
    name = scheduler_of(sampler)
    if name in _ONE_SCHEDULE or name.endswith("_karras"):
        return name
    if name not in _SAMPLERS:
        return f"{sampler} {_KARRAS}"
    if f"{name}_karras" not in _SAMPLERS:
        having = [one for one in _SAMPLERS.values() if f"{one} {_KARRAS}" in EQUIVALENTS]
        raise InvalidRequestError(
            "scheduler", f"{_KARRAS} is available for {', '.join(having)}, not for {sampler}"
        )
    return f"{name}_karras"


def pair_of_scheduler(scheduler: str) -> tuple[str, str]:
    """The sampler and the schedule that an infotext shows for a ``scheduler``."""
    sampler = _SAMPLERS.get(scheduler, scheduler)
    if sampler.endswith(f" {_KARRAS}"):
        return sampler.removesuffix(f" {_KARRAS}"), _KARRAS
    return sampler, SCHEDULES[0]


def sampler_items(schedulers: Iterable[str]) -> list[dict[str, Any]]:
    """The answer of ``samplers``: those of A1111 with an equivalent among ``schedulers``."""
    known = set(schedulers)
    return [
        {"name": sampler, "aliases": [name], "options": {}}
        for sampler, name in EQUIVALENTS.items()
        if name in known
    ]


def schedule_items() -> list[dict[str, Any]]:
    """The answer of ``schedulers``."""
    return [
        {
            "name": one.lower(),
            "label": one,
            "aliases": None,
            "default_rho": -1,
            "need_inner_model": False,
        }
        for one in SCHEDULES
    ]
