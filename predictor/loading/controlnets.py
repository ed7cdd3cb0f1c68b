"""Loads the ``controlnets/`` of a published model folder together with the model.

Loading them at startup includes them in the GPU memory measurement, and no picture in flight waits
for weights. An unusable ControlNet does not stop the server: the log gives the cause at startup,
and requests that name it fail.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from modelstore.layout import CONTROLNETS_FOLDER_NAME
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.mapped_weights import copy_mapped_weights
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.stepwise import has_unet

logger = logging.getLogger(__name__)

_CLASS_NAME = "ControlNetModel"
# A ControlNet and its UNet must agree on these, or the shapes of the residuals do not match.
_SHARED = (
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)


class UnusableControlNetError(Exception):
    """A ControlNet does not fit or does not load; the message follows its name in a sentence."""


def load_controlnets(
    checkpoint: Checkpoint, pipeline: DiffusionPipeline, device: torch.device
) -> ControlNets:
    """Load the model's ControlNets onto ``device`` in the pipeline's dtype.

    Return none for a pipeline without a UNet in the step loop: its ``__call__`` accepts none.
    """
    if not has_unet(pipeline):
        return ControlNets()
    usable: dict[str, ControlNet] = {}
    unusable: dict[str, str] = {}
    for path in sorted((checkpoint.folder / CONTROLNETS_FOLDER_NAME).glob("*/")):
        variant = checkpoint.variant_of(f"{CONTROLNETS_FOLDER_NAME}/{path.name}")
        try:
            usable[path.name] = _load(path, variant, pipeline, device)
        except UnusableControlNetError as error:
            unusable[path.name] = _log_failure(path.name, error)
    return ControlNets(usable, unusable)


def _log_failure(name: str, error: UnusableControlNetError) -> str:
    """Log the error with its cause and return the message for callers."""
    cause = error.__cause__
    logger.error("the ControlNet %r %s", name, error, exc_info=cause)
    return f"{error}; the server's log has the cause" if cause else str(error)


def _load(folder: Path, variant: str | None, pipeline: Any, device: torch.device) -> ControlNet:
    # Most models have no ControlNet, and each import delays the start.
    from diffusers import ControlNetModel

    try:
        _check_fit(ControlNetModel.load_config(folder, local_files_only=True), pipeline)
        model, report = ControlNetModel.from_pretrained(
            folder,
            dtype=pipeline.unet.dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise ValueError(f"the weights lack {min(report['missing_keys'])}")
        for name, weight in model.named_parameters():
            if not torch.isfinite(weight).all():
                raise ValueError(f"{name} contains NaN or infinity")
        model.to(device)
        copy_mapped_weights([model])
    except UnusableControlNetError:
        raise
    except Exception as error:
        raise UnusableControlNetError("does not load") from error
    return ControlNet(model.eval().requires_grad_(False), pipeline.vae_scale_factor)


def _check_fit(config: Mapping[str, Any], pipeline: Any) -> None:
    """Check that the shapes of the residuals match the UNet's features.

    Raises:
        UnusableControlNetError: they do not match, or the network is not a ControlNet.
    """
    class_name = config.get("_class_name")
    if class_name != _CLASS_NAME:
        raise UnusableControlNetError(f"is a {class_name}, not a {_CLASS_NAME}")
    for name, given, wanted in _compared(config, pipeline):
        # An empty value is not a requirement.
        if given is not None and given != wanted:
            raise UnusableControlNetError(
                f"does not fit the model: its {name} is {given}, the model's {wanted}"
            )


def _compared(config: Mapping[str, Any], pipeline: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield each name with the ControlNet's value and the one that the model requires."""
    yield "in_channels", config.get("in_channels"), pipeline.vae.config.latent_channels
    yield "conditioning_channels", config.get("conditioning_channels"), 3
    stages = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    yield "pixels per latent", 2 ** (len(stages) - 1), pipeline.vae_scale_factor
    for name in _SHARED:
        given, wanted = (
            # JSON has lists, not tuples.
            list(value) if isinstance(value, tuple) else value
            for value in (config.get(name), pipeline.unet.config.get(name))
        )
        yield name, given, wanted
