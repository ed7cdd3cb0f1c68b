"""Applies a ``Tuning`` to a new pipeline through public calls of diffusers and torch."""

from __future__ import annotations

from typing import Any

import torch

from predictor.pipelines.tuning import Savings, Tuning


def apply_tuning(pipeline: Any, tuning: Tuning, device: torch.device) -> None:
    """Apply the tuning and move the pipeline to the device; the engine handles ``compile`` later.

    The order matters: options that change weights come before offloading.
    """
    _set_attention(pipeline, tuning)
    _save_in_vae(pipeline, tuning.savings)
    if tuning.channels_last:
        _set_channels_last(pipeline)
    if tuning.tf32:
        torch.set_float32_matmul_precision("high")
    _place(pipeline, tuning.savings, device)


def _set_attention(pipeline: Any, tuning: Tuning) -> None:
    """Select the attention; diffusers defaults to PyTorch's scaled dot product attention."""
    if tuning.attention == "xformers":
        pipeline.enable_xformers_memory_efficient_attention()
    if tuning.attention == "sliced":
        pipeline.enable_attention_slicing("max")
    if tuning.fused_qkv:
        denoiser = denoiser_of(pipeline)
        assert denoiser is not None
        denoiser.fuse_qkv_projections()


def _save_in_vae(pipeline: Any, savings: Savings) -> None:
    if savings.vae_slicing:
        pipeline.vae.enable_slicing()
    if savings.vae_tiling:
        pipeline.vae.enable_tiling()


def _set_channels_last(pipeline: Any) -> None:
    """Use channels-last memory for convolutions, which speeds up UNets and VAEs."""
    for part in (denoiser_of(pipeline), vae_of(pipeline)):
        if part is not None:
            part.to(memory_format=torch.channels_last)


def _place(pipeline: Any, savings: Savings, device: torch.device) -> None:
    if savings.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif savings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)


def denoiser_of(pipeline: Any) -> Any | None:
    """Return the network that runs at every step, or None if it has an unknown name."""
    parts = (getattr(pipeline, name, None) for name in ("unet", "transformer"))
    return next((part for part in parts if part is not None), None)


def vae_of(pipeline: Any) -> Any | None:
    """Return the autoencoder that decodes latents to pictures, if there is one."""
    return getattr(pipeline, "vae", None)
