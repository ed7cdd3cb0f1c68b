"""The ``controlnets/`` of a published model folder, loaded with the model.

At start and not at the first use: a GPU's memory is then measured with them in it, and no picture
under way waits for weights to be read. One that cannot be used keeps nothing else from being
served: the log says why at start, and a request for it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DiffusionPipeline

from modelstore.layout import CONTROLNETS_FOLDER_NAME
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.stepwise import supports

logger = logging.getLogger(__name__)

# What a ControlNet and its UNet must have in common, or the one's residuals do not fit the other.
_SHARED = (
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)


class UnusableControlNetError(Exception):
    """A ControlNet does not fit or does not load; the text goes on after its name."""


def load_controlnets(
    checkpoint: Checkpoint, pipeline: DiffusionPipeline, device: torch.device
) -> ControlNets:
    """Load all ControlNets beside the pipeline, in its number type and onto ``device``.

    A pipeline that the step loop does not run has none: its own ``__call__`` takes none.
    """
    if not supports(pipeline):
        return ControlNets()
    usable: dict[str, ControlNet] = {}
    unusable: dict[str, str] = {}
    for path in sorted((checkpoint.folder / CONTROLNETS_FOLDER_NAME).glob("*/")):
        variant = checkpoint.variant_of(f"{CONTROLNETS_FOLDER_NAME}/{path.name}")
        try:
            usable[path.name] = _load(path, variant, pipeline, device)
        except UnusableControlNetError as error:
            unusable[path.name] = _told(path.name, error)
    return ControlNets(usable, unusable)


def _told(name: str, error: UnusableControlNetError) -> str:
    """What callers are told, after the log was told the cause."""
    cause = error.__cause__
    logger.error("the ControlNet %r %s", name, error, exc_info=cause)
    return f"{error}; the server's log has the cause" if cause else str(error)


def _load(folder: Path, variant: str | None, pipeline: Any, device: torch.device) -> ControlNet:
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
        model.to(device)
    except UnusableControlNetError:
        raise
    except Exception as error:
        raise UnusableControlNetError("does not load") from error
    return ControlNet(model.eval().requires_grad_(False), pipeline.vae_scale_factor)


def _check_fit(config: Mapping[str, Any], pipeline: Any) -> None:
    """See that the residuals have the shapes that the UNet's own features have.

    Raises:
        UnusableControlNetError: they do not, or it is another network.
    """
    class_name = config.get("_class_name")
    if class_name != ControlNetModel.__name__:
        raise UnusableControlNetError(f"is a {class_name}, not a {ControlNetModel.__name__}")
    for name, given, wanted in _compared(config, pipeline):
        # What a ControlNet leaves empty it does not ask for.
        if given is not None and given != wanted:
            raise UnusableControlNetError(
                f"does not fit the model: its {name} is {given}, the model's {wanted}"
            )


def _compared(config: Mapping[str, Any], pipeline: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each name with the ControlNet's value and the one that the model needs."""
    yield "in_channels", config.get("in_channels"), pipeline.vae.config.latent_channels
    yield "conditioning_channels", config.get("conditioning_channels"), 3
    stages = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    yield "pixels per latent", 2 ** (len(stages) - 1), pipeline.vae_scale_factor
    for name in _SHARED:
        given, wanted = (
            # JSON knows no tuples.
            list(value) if isinstance(value, tuple) else value
            for value in (config.get(name), pipeline.unet.config.get(name))
        )
        yield name, given, wanted
