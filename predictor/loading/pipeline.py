"""Loads a published model folder into a pipeline."""

from __future__ import annotations

import importlib.util
import inspect
import logging
from dataclasses import replace
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from modelstore import Marker
from modelstore.layout import (
    ADAPTERS_FOLDER_NAME,
    CONTROLNETS_FOLDER_NAME,
    REFINER_FOLDER_NAME,
)
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.checkpoint.placement import free_memory, pick_device, pick_dtype
from predictor.errors import ModelLoadError
from predictor.loading.apply import apply_tuning, denoiser_of, vae_of
from predictor.loading.compilation import has_compiler
from predictor.loading.contradictions import Facts, check
from predictor.loading.controlnets import load_controlnets
from predictor.loading.embedding_files import load_embeddings
from predictor.loading.mapped_weights import copy_mapped_weights
from predictor.loading.presets import footprint_of, savings_of
from predictor.loading.profile import read_profile
from predictor.loading.refiner_weights import (
    read_refiner,
    reject_standalone_refiner,
    warm_up_refiner,
)
from predictor.pipelines.tuning import Savings, Tuning, tune
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import ModelProfile
from predictor.settings import Settings

logger = logging.getLogger(__name__)

_NETWORKS = (REFINER_FOLDER_NAME, CONTROLNETS_FOLDER_NAME)


def load_pipeline(checkpoint: Checkpoint, settings: Settings) -> DiffusersPipeline:
    """Load the checkpoint, without making a picture with it.

    Raises:
        ModelLoadError: the checkpoint does not load, or the settings contradict each other or the
            model.
    """
    reject_standalone_refiner(checkpoint)
    device = pick_device(settings)
    dtype = pick_dtype(settings, device, checkpoint.family)
    facts = _facts(checkpoint, settings, device, dtype)
    check(facts)
    try:
        pipeline = _read_weights(checkpoint, dtype)
        embeddings = load_embeddings(pipeline, checkpoint.embeddings)
        refiner = read_refiner(pipeline, checkpoint)
        profile = read_profile(pipeline, checkpoint, has_refiner=refiner is not None)
        tuning = _tune(settings, pipeline, profile, checkpoint.marker, device)
        check(_with_the_model(facts, pipeline, tuning))
        apply_tuning(pipeline, tuning, device)
        copy_mapped_weights(pipeline.components.values())
        if refiner is not None:
            apply_tuning(refiner, tuning, device)
            copy_mapped_weights(refiner.components.values())
            warm_up_refiner(refiner)
    except ModelLoadError:
        raise
    except Exception as error:
        name = checkpoint.marker.name
        raise ModelLoadError(f"model {name!r} does not load: {error}") from error
    logger.info("loaded on %s: %s", device, tuning)
    return DiffusersPipeline(
        pipeline,
        profile,
        device,
        tuning,
        adapter_files=checkpoint.adapters,
        controlnets=load_controlnets(checkpoint, pipeline, device),
        embeddings=embeddings,
        refiner=DiffusersPipeline(refiner, profile, device, tuning) if refiner else None,
    )


def _facts(
    checkpoint: Checkpoint, settings: Settings, device: torch.device, dtype: torch.dtype
) -> Facts:
    """Collect the facts that are known before reading weights, which takes minutes."""
    return Facts(
        tuning=tune(settings, settings.memory_preset, Savings()),
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        has_xformers=importlib.util.find_spec("xformers") is not None,
        has_compiler=has_compiler(device.type),
        has_adapters=checkpoint.has(ADAPTERS_FOLDER_NAME),
        has_networks=any(checkpoint.has(name) for name in _NETWORKS),
        compile_shapes=settings.compile_shapes,
        has_graphs=device.type == "cuda" and settings.cuda_graphs != "off",
    )


def _with_the_model(facts: Facts, pipeline: Any, tuning: Tuning) -> Facts:
    denoiser, vae = denoiser_of(pipeline), vae_of(pipeline)
    return replace(
        facts,
        tuning=tuning,
        can_compile=denoiser is not None,
        can_slice_attention=hasattr(denoiser, "set_attention_slice"),
        can_fuse_qkv=hasattr(denoiser, "fuse_qkv_projections"),
        can_slice_vae=hasattr(vae, "use_slicing"),
        can_tile_vae=hasattr(vae, "use_tiling"),
        denoiser=type(denoiser).__name__,
        vae=type(vae).__name__,
    )


def _tune(
    settings: Settings,
    pipeline: Any,
    profile: ModelProfile,
    marker: Marker,
    device: torch.device,
) -> Tuning:
    pixels = profile.defaults.width * profile.defaults.height
    footprint = footprint_of(pipeline, marker, pixels, settings.max_pixels)
    preset, savings = savings_of(settings.memory_preset, free_memory(device), footprint)
    vae = vae_of(pipeline)
    possible = Savings(
        savings.vae_slicing and hasattr(vae, "use_slicing"),
        savings.vae_tiling and hasattr(vae, "use_tiling"),
        savings.offload,
    )
    return tune(settings, preset, possible)


def _read_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    marker = checkpoint.marker
    # In a pod's log, a progress bar is one line that does not end for minutes.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logger.info("reading %s at %s: %.2f GB", marker.source, marker.revision, marker.size / 1e9)
    pipeline = _pipeline_class(checkpoint).from_pretrained(
        checkpoint.folder,
        dtype=dtype,
        variant=marker.variant,
        use_safetensors=True,
        local_files_only=True,
        **_left_out(checkpoint),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_class(checkpoint: Checkpoint) -> Any:
    """Return the checkpoint's own class: ``DiffusionPipeline`` ignores None for a component whose
    argument has a default (``_get_signature_keys``).
    """
    own = getattr(diffusers, checkpoint.configs.class_name, None)
    is_pipeline = inspect.isclass(own) and issubclass(own, DiffusionPipeline)
    return own if is_pipeline else DiffusionPipeline


def _left_out(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return arguments that keep diffusers from loading components that the index leaves empty (SD3
    without T5) or the downloader left out, and the safety checker, which ``predictor.safety`` runs
    instead of the pipeline.
    """
    index = checkpoint.configs.index
    left_out: dict[str, Any] = {name: None for name, entry in index.items() if entry == [None] * 2}
    left_out |= {name: None for name in checkpoint.marker.left_out if name in index}
    if "safety_checker" in index:
        left_out["safety_checker"] = None
    if "requires_safety_checker" in index:
        left_out["requires_safety_checker"] = False
    return left_out
