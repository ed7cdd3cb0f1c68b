"""Loads the refiner of an SDXL base, and shares the parts that the base has already loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLImg2ImgPipeline

from modelstore import Marker
from modelstore.layout import REFINER_FOLDER_NAME
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError
from predictor.pipelines.stepwise import takes_refiner
from predictor.pipelines.whole import check_finite

logger = logging.getLogger(__name__)

_SHAREABLE = ("text_encoder_2", "tokenizer_2")
# Configuration keys that do not describe the component: its origin, and a dtype set at loading.
_PROVENANCE = {
    "_name_or_path",
    "name_or_path",
    "_diffusers_version",
    "transformers_version",
    "torch_dtype",
    "dtype",
}


def reject_standalone_refiner(checkpoint: Checkpoint) -> None:
    """Reject a refiner that is published as a model of its own.

    Raises:
        ModelLoadError: the checkpoint is a refiner; the message says what to publish instead.
    """
    if checkpoint.configs.index.get("requires_aesthetics_score"):
        raise ModelLoadError(
            "this is SDXL's refiner, which cannot run without a base: publish a base with this "
            "model as its `refiner` (docs/downloads.md)"
        )


def read_refiner(base: Any, checkpoint: Checkpoint) -> DiffusionPipeline | None:
    """Load the refiner published with the base, still on the CPU; None if there is none.

    Raises:
        ModelLoadError: the refiner does not load.
    """
    if not checkpoint.is_published(REFINER_FOLDER_NAME):
        return None
    if not takes_refiner(base):
        logger.warning("%s does not support a refiner; ignoring it", type(base).__name__)
        return None
    try:
        refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(
            checkpoint.folder / REFINER_FOLDER_NAME,
            dtype=base.unet.dtype,
            variant=checkpoint.variant_of(REFINER_FOLDER_NAME),
            use_safetensors=True,
            local_files_only=True,
            **_shared(base, checkpoint),
        )
    except Exception as error:
        name = checkpoint.marker.name
        raise ModelLoadError(f"the refiner of {name!r} does not load: {error}") from error
    refiner.set_progress_bar_config(disable=True)
    return refiner


def warm_up_refiner(refiner: Any) -> None:
    """Run one step on zero latents, so that the first request is fast.

    Raises:
        ModelLoadError: the step failed, or its latents are not finite.
    """
    config = refiner.unet.config
    latents = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size)
    try:
        with torch.inference_mode():
            refined = refiner(
                "warm-up",
                image=latents,
                num_inference_steps=2,
                denoising_start=0.5,
                output_type="latent",
            )
        check_finite(refined.images)
    except Exception as error:
        raise ModelLoadError(f"the refiner's warm-up step failed: {error}") from error


def _shared(base: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the base's components that the refiner can share.

    The VAE is always shared, because base and refiner exchange latents.
    """
    same = [name for name in _SHAREABLE if _is_same(name, checkpoint)]
    logger.info("the refiner shares with the base: %s", ", ".join(["vae", *same]))
    return {"vae": base.vae, **{name: getattr(base, name) for name in same}}


def _is_same(name: str, checkpoint: Checkpoint) -> bool:
    folder, marker = checkpoint.folder, checkpoint.marker
    own, other = (_digests(marker, prefix) for prefix in (name, f"{REFINER_FOLDER_NAME}/{name}"))
    return own.keys() == other.keys() and all(
        own[path] == other[path]
        or _is_same_json(folder / name / path, folder / REFINER_FOLDER_NAME / name / path)
        for path in own
    )


def _digests(marker: Marker, prefix: str) -> dict[str, str]:
    """Return the SHA-256 of each file below ``prefix``, by its path relative to ``prefix``."""
    return {
        entry.path.removeprefix(f"{prefix}/"): entry.sha256
        for entry in marker.files
        if entry.path.startswith(f"{prefix}/")
    }


def _is_same_json(own: Path, other: Path) -> bool:
    if own.suffix != ".json":
        return False
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in (own, other)]
    if not all(isinstance(document, dict) for document in documents):
        return False
    first, second = (
        {key: value for key, value in document.items() if key not in _PROVENANCE}
        for document in documents
    )
    return first == second
