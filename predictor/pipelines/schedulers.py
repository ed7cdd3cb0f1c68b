"""The noise schedulers that a request may name, and how each is made from the model's own one."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import SchedulerMixin

# Name on the wire: diffusers' class, and what it changes of the model's scheduler configuration.
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    # Clipping is for pixels; latents go beyond 1, and not every checkpoint's configuration says so.
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}

# The name for the scheduler that a checkpoint brings, where none of ours fits it.
OWN = "default"


def scheduler_names(own: SchedulerMixin) -> tuple[str, ...]:
    """The names that a model with this scheduler accepts.

    A flow-matching model (SD3, FLUX) is not solved by the schedulers above.
    """
    if "FlowMatch" in type(own).__name__:
        return (OWN,)
    return (*_SCHEDULERS, OWN)


def make_scheduler(name: str, own: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of its own for one request: schedulers keep state while they run."""
    if name == OWN:
        return type(own).from_config(own.config)
    class_name, changes = _SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(own.config, **changes)
