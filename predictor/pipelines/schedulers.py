"""The noise of a request: the schedulers it may name, and the generator it is drawn by."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin

from predictor.requests import GenerationRequest

# The name for the scheduler that a checkpoint brings.
OWN = "default"
LCM = "lcm"
# The steps of the teacher that an LCM was distilled from: it picks among these.
LCM_STEPS = 50

_PLAIN = {"use_karras_sigmas": False}
# Only one spacing may be named in a configuration.
_KARRAS = {"use_karras_sigmas": True, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_DPMPP = {"algorithm_type": "dpmsolver++"}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
# An odd number of them too; diffusers would turn it on itself, with a line in the log each time.
_ANY_STEPS = {"lower_order_final": True}
# Clipping is for pixels; latents go beyond 1, and not every checkpoint's configuration says so.
_LATENTS = {"clip_sample": False}

# Name on the wire: diffusers' class, and what it changes of the model's scheduler configuration.
# The pairs are those of diffusers' own table of A1111's names.
_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", _DPMPP | _PLAIN),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", _DPMPP | _KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", _SDE | _PLAIN),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", _SDE | _KARRAS),
    "dpmpp_sde": ("DPMSolverSinglestepScheduler", _DPMPP | _PLAIN | _ANY_STEPS),
    "dpmpp_sde_karras": ("DPMSolverSinglestepScheduler", _DPMPP | _KARRAS | _ANY_STEPS),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", _LATENTS),
    "ddpm": ("DDPMScheduler", _LATENTS),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    LCM: ("LCMScheduler", _LATENTS | {"original_inference_steps": LCM_STEPS}),
}

_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True} | _PLAIN
_FLOW_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", _FLOW),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", _DPMPP | _FLOW),
}


def scheduler_names(own: SchedulerMixin, *, always_shifts: bool = False) -> tuple[str, ...]:
    """The names that a model with this scheduler accepts.

    A flow-matching model (SD3, FLUX) has its own few. ``always_shifts``: its pipeline tells the
    scheduler to shift by the picture's size, whether the scheduler's configuration wants it or not.
    """
    if _is_flow_matching(own):
        return (*_flow_names(own, always_shifts), OWN)
    if _has_betas(own):
        return (*_SOLVERS, OWN)
    return (OWN,)


def most_steps(own: SchedulerMixin) -> dict[str, int]:
    """The schedulers that take so many steps and no more."""
    if type(own).__name__ == "LCMScheduler":
        return {LCM: LCM_STEPS, OWN: int(own.config.original_inference_steps)}
    return {LCM: LCM_STEPS}


def make_scheduler(name: str, own: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of its own for one request: schedulers keep state while they run."""
    if name == OWN:
        return type(own).from_config(own.config)
    if _is_flow_matching(own):
        flow_scheduler: SchedulerMixin = _make_flow_scheduler(name, own)
        return flow_scheduler
    scheduler: SchedulerMixin = _made(*_SOLVERS[name], own)
    return scheduler


def _made(class_name: str, changes: dict[str, Any], own: SchedulerMixin) -> Any:
    made: Any = getattr(diffusers, class_name)
    given = dict(own.config)
    known = inspect.signature(made.__init__).parameters
    # With an underscore: diffusers' note on which of the values are nobody's choice.
    told = {name: given[name] for name in given if name in known or name.startswith("_use_default")}
    scheduler = made.from_config(told, **changes)
    # FLUX's pipeline reads some of the rest; diffusers would log a line for each, each time.
    rest = {name: given[name] for name in given if name not in scheduler.config}
    scheduler.register_to_config(**rest)
    return scheduler


def _is_flow_matching(own: SchedulerMixin) -> bool:
    return type(own).__name__ == "FlowMatchEulerDiscreteScheduler"


def _has_betas(own: SchedulerMixin) -> bool:
    """Whether it walks a variance-preserving way that all of ``_SOLVERS`` know.

    EDM's schedulers have no betas; the solvers that Sana brings walk the flow.
    """
    config = getattr(own, "config", {})
    known = ("epsilon", "v_prediction")
    return "beta_schedule" in config and config.get("prediction_type", "epsilon") in known


def _flow_names(own: SchedulerMixin, always_shifts: bool) -> tuple[str, ...]:
    """Not every solver can be told the shift, and not every one can do without it."""
    shifts = bool(own.config.use_dynamic_shifting)
    is_told = shifts or always_shifts
    cannot = {"heun"} if is_told else set()
    if is_told and not (shifts and own.config.time_shift_type == "exponential"):
        cannot.add("dpmpp_2m")
    return tuple(name for name in _FLOW_SOLVERS if name not in cannot)


def _make_flow_scheduler(name: str, own: SchedulerMixin) -> Any:
    class_name, changes = _FLOW_SOLVERS[name]
    shift = {"flow_shift": own.config.shift} if changes else {}
    scheduler = _made(class_name, changes | shift, own)
    if not hasattr(scheduler, "scale_noise"):
        # What image to image calls; these two have it under its older name.
        scheduler.scale_noise = lambda sample, timestep, noise: scheduler.add_noise(
            sample, noise, timestep
        )
    return scheduler


def generator_for(request: GenerationRequest) -> torch.Generator:
    """Begun at the request's seed; on the CPU, so that every device is given the same noise."""
    return torch.Generator("cpu").manual_seed(request.seed)
