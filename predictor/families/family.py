"""What a family of models is: how it is told from others, and what suits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from predictor.families.configs import Configs


@dataclass(frozen=True)
class Family:
    """One row of the table.

    ``recognised_by`` says in words what ``matches`` looks for. ``latent_side`` is the side that a
    checkpoint was trained at, in latents, where its configuration does not tell.
    ``num_inference_steps`` and ``guidance_scale`` are None where the pipeline's own ``__call__``
    knows better, ``scheduler`` where the checkpoint's own is the one to use.
    ``gpu_dtype`` is for a GPU that has it, ``dtype_reason`` says why. ``upcasts_vae``: the VAE runs
    in float32 where its configuration says ``force_upcast`` and the weights are float16.
    ``max_sequence_length`` is the most tokens that T5 may be given, None where the pipeline's
    default stands. ``schedulers`` are those that a request may name beside ``default``, None for
    all that solve its equation. ``always_shifts`` is a matter of the pipeline; see
    ``scheduler_names``.
    """

    name: str
    recognised_by: str
    matches: Callable[[Configs], bool]
    latent_side: int
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    gpu_dtype: Literal["float16", "bfloat16"]
    dtype_reason: str
    upcasts_vae: bool = False
    max_sequence_length: int | None = None
    schedulers: tuple[str, ...] | None = None
    always_shifts: bool = False
