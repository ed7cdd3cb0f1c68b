"""The schedulers that a request may name, and the random generator of its noise."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin

from predictor.requests import GenerationRequest

# The name of the checkpoint's own scheduler.
OWN = "default"
LCM = "lcm"
# The number of steps of the teacher that an LCM was distilled from; the LCM uses a subset of them.
LCM_STEPS = 50
# The training timesteps of nearly all checkpoints.
MOST_STEPS = 1000

# A configuration may enable only one spacing.
_PLAIN = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
}
_KARRAS = _PLAIN | {"use_karras_sigmas": True}
_DPMPP = {"algorithm_type": "dpmsolver++"}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
# Needed for an odd number of steps. diffusers would set it anyway and log a warning each time.
_ANY_STEPS = {"lower_order_final": True}
# Clipping is meant for pixels. Latents exceed 1, and not every checkpoint turns clipping off.
_LATENTS = {"clip_sample": False}

# Name in the API: diffusers' class, and its changes to the model's scheduler configuration. From
# diffusers' table of A1111 scheduler names.
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

_FLOW = _PLAIN | {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_FLOW_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", _FLOW),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", _DPMPP | _FLOW),
}
_ALL_SOLVERS = (*_SOLVERS.values(), *_FLOW_SOLVERS.values())


def scheduler_names(own: SchedulerMixin, *, always_shifts: bool = False) -> tuple[str, ...]:
    """Return the scheduler names that a model with this scheduler accepts.

    A flow-matching model (SD3, FLUX) accepts a few of its own. ``always_shifts``: the pipeline
    passes a shift that depends on the picture size, even if the configuration disables it.
    """
    if _is_flow_matching(own):
        return (*_flow_names(own, always_shifts), OWN)
    if _has_betas(own):
        return (*_SOLVERS, OWN)
    return (OWN,)


def most_steps(own: SchedulerMixin) -> dict[str, int]:
    """Return the schedulers that cannot take ``MOST_STEPS`` steps, and the most that they take.

    A distilled one (LCM, TCD) takes a subset of its teacher's steps. One that does not set
    timesteps by their number alone has no maximum here.
    """
    bounds = {}
    for name in scheduler_names(own):
        scheduler = make_scheduler(name, own)
        if not _may_refuse(scheduler):
            continue
        if _takes(scheduler, 1) and not _takes(scheduler, MOST_STEPS):
            bounds[name] = _most(scheduler)
    return bounds


def _may_refuse(scheduler: Any) -> bool:
    """Whether a trial can find a maximum; with Karras sigmas, a trial takes 0.1 s.

    The classes of the solvers take a step for each training timestep, unless they are distilled.
    """
    is_known = type(scheduler).__name__ in {name for name, _ in _ALL_SOLVERS}
    is_distilled = "original_inference_steps" in scheduler.config
    return not is_known or is_distilled or scheduler.config.num_train_timesteps < MOST_STEPS


def _takes(scheduler: Any, steps: int) -> bool:
    try:
        scheduler.set_timesteps(steps)
    except Exception:
        return False
    return True


def _most(scheduler: Any) -> int:
    """Bisect between a number of steps that it takes and one that it does not."""
    below, above = 1, MOST_STEPS
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if _takes(scheduler, middle) else (below, middle)
    return below


def make_scheduler(name: str, own: SchedulerMixin) -> SchedulerMixin:
    """Create a scheduler for one request; schedulers are stateful and cannot be shared."""
    if name == OWN:
        scheduler: Any = type(own).from_config(own.config)
    elif _is_flow_matching(own):
        scheduler = _make_flow_scheduler(name, own)
    else:
        scheduler = _made(*_SOLVERS[name], own)
    _begin_at_first_index(scheduler)
    made: SchedulerMixin = scheduler
    return made


def _begin_at_first_index(scheduler: Any) -> None:
    """Let ``set_timesteps`` set the begin index to 0.

    Without a begin index, diffusers looks up the first timestep and takes its second occurrence,
    which skips a step if the first two are equal (rescaled betas, beta sigmas). Image to image
    sets another begin index afterwards.
    """
    if not hasattr(scheduler, "set_begin_index"):
        return
    set_timesteps = scheduler.set_timesteps

    # Pipelines inspect the signature.
    @functools.wraps(set_timesteps)
    def set_and_begin(*arguments: Any, **options: Any) -> None:
        set_timesteps(*arguments, **options)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_and_begin


def _made(class_name: str, changes: dict[str, Any], own: SchedulerMixin) -> Any:
    made: Any = getattr(diffusers, class_name)
    given = dict(own.config)
    known = inspect.signature(made.__init__).parameters
    # ``_use_default_values`` is diffusers' record of the values that are defaults.
    used = {name: given[name] for name in given if name in known or name.startswith("_use_default")}
    changed = {name: value for name, value in changes.items() if name in known}
    scheduler = made.from_config(used, **changed)
    # FLUX's pipeline reads some of the rest. ``from_config`` would log a warning for each of them.
    rest = {name: given[name] for name in given if name not in scheduler.config}
    scheduler.register_to_config(**rest)
    return scheduler


def _is_flow_matching(own: SchedulerMixin) -> bool:
    return type(own).__name__ == "FlowMatchEulerDiscreteScheduler"


def _has_betas(own: SchedulerMixin) -> bool:
    """Whether it follows a variance-preserving diffusion that all of ``_SOLVERS`` support.

    EDM's schedulers have no betas, and Sana's solvers use flow matching.
    """
    config = getattr(own, "config", {})
    known = ("epsilon", "v_prediction")
    return "beta_schedule" in config and config.get("prediction_type", "epsilon") in known


def _flow_names(own: SchedulerMixin, always_shifts: bool) -> tuple[str, ...]:
    """Return the solvers that support, or do not need, the shift that the pipeline passes."""
    shifts = bool(own.config.use_dynamic_shifting)
    passes_shift = shifts or always_shifts
    unsupported = {"heun"} if passes_shift else set()
    if passes_shift and not (shifts and own.config.time_shift_type == "exponential"):
        unsupported.add("dpmpp_2m")
    return tuple(name for name in _FLOW_SOLVERS if name not in unsupported)


def _make_flow_scheduler(name: str, own: SchedulerMixin) -> Any:
    class_name, changes = _FLOW_SOLVERS[name]
    shift = {"flow_shift": own.config.shift} if changes else {}
    scheduler = _made(class_name, changes | shift, own)
    if not hasattr(scheduler, "scale_noise"):
        # Image to image calls ``scale_noise``; these classes have it under its older name.
        scheduler.scale_noise = lambda sample, timestep, noise: scheduler.add_noise(
            sample, noise, timestep
        )
    return scheduler


def generator_for(request: GenerationRequest) -> torch.Generator:
    """Create a generator from the request's seed."""
    return seeded_generator(request.seed)


def seeded_generator(seed: int) -> torch.Generator:
    """Create a generator on the CPU, so that all devices agree."""
    return torch.Generator("cpu").manual_seed(seed)
