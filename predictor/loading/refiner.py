"""The refiner beside an SDXL base: loaded without what the base has already."""

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

logger = logging.getLogger(__name__)

_SHAREABLE = ("text_encoder_2", "tokenizer_2")
# Where a file came from, what wrote it, and a type that loading decides: nothing of the part.
_PROVENANCE = {
    "_name_or_path",
    "name_or_path",
    "_diffusers_version",
    "transformers_version",
    "torch_dtype",
    "dtype",
}


def refuse_refiner_alone(checkpoint: Checkpoint) -> None:
    """Refuse a refiner in the place of a model.

    Raises:
        ModelLoadError: it is one; says what to publish instead.
    """
    if checkpoint.configs.index.get("requires_aesthetics_score"):
        raise ModelLoadError(
            "this is SDXL's refiner, which only goes on where a base stops: publish a base with "
            "this one as its `refiner` (docs/downloads.md)"
        )


def read_refiner(base: Any, checkpoint: Checkpoint) -> DiffusionPipeline | None:
    """The refiner published beside the base, not on a device yet; None where there is none.

    Raises:
        ModelLoadError: it does not load.
    """
    if not checkpoint.is_published(REFINER_FOLDER_NAME):
        return None
    if not takes_refiner(base):
        logger.warning("the refiner is left out: %s cannot hand over", type(base).__name__)
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
    """Take one step from nothing, so that no caller waits for it.

    Raises:
        ModelLoadError: it failed.
    """
    config = refiner.unet.config
    latents = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size)
    try:
        with torch.inference_mode():
            refiner(
                "warm-up",
                image=latents,
                num_inference_steps=2,
                denoising_start=0.5,
                output_type="latent",
            )
    except Exception as error:
        raise ModelLoadError(f"the refiner's warm-up step failed: {error}") from error


def _shared(base: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """The base's parts that are the refiner's too.

    The VAE is in any case: latents that are handed over are of one space.
    """
    same = [name for name in _SHAREABLE if _is_same(name, checkpoint)]
    logger.info("the refiner takes from the base: vae, %s", ", ".join(same) or "nothing else")
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
    """The files below ``prefix``: their paths from there, and what the downloader hashed."""
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
