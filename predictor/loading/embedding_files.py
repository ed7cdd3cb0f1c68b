"""Loads the textual inversion embeddings of a model into its text encoders and tokenizers.

The result is that of diffusers' ``load_textual_inversion``, which however computes the covariance
of the vocabulary for each file, and leaves a file half loaded if its second encoder does not match.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from predictor.pipelines.stable_diffusion import TEXT_ENCODERS, TOKENIZERS
from predictor.pipelines.stepwise import has_unet
from predictor.pipelines.textual_inversion import Embeddings

logger = logging.getLogger(__name__)

# The tensors of a file for SDXL, in the order of its text encoders.
_SDXL_KEYS = ("clip_l", "clip_g")


class _Encoder(NamedTuple):
    """A text encoder of the model with its tokenizer."""

    tokenizer: Any
    model: Any

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])


def load_embeddings(pipeline: Any, files: Mapping[str, Path]) -> Embeddings:
    """Load each file under its name; one that does not load fails only requests that name it."""
    if not files:
        return Embeddings()
    if not has_unet(pipeline):
        logger.warning("%s does not support embeddings; ignoring them", type(pipeline).__name__)
        return Embeddings()
    encoders = [
        _Encoder(getattr(pipeline, tokenizer), getattr(pipeline, encoder))
        for tokenizer, encoder in zip(TOKENIZERS, TEXT_ENCODERS, strict=True)
        if pipeline.components.get(encoder) is not None
    ]
    loaded: dict[str, list[torch.Tensor]] = {}
    for name, file in files.items():
        try:
            _check_name(name, loaded, encoders)
            loaded[name] = _read(file, encoders)
        except Exception as error:  # a file may hold anything
            logger.warning("embedding %r does not load: %s", name, error)
    for index, encoder in enumerate(encoders):
        _add(encoder, {name: vectors[index] for name, vectors in loaded.items()})
    logger.info("loaded embeddings: %s", ", ".join(loaded) or "none")
    return Embeddings(files, files.keys() - loaded.keys())


def _check_name(name: str, loaded: Mapping[str, Any], encoders: Sequence[_Encoder]) -> None:
    """Check that the name can be a token of its own.

    Raises:
        ValueError: it cannot.
    """
    for encoder in encoders:
        if {name, name.lower()} & encoder.tokenizer.get_vocab().keys():
            raise ValueError("its name is in the tokenizer's vocabulary")
    first, _, number = name.lower().rpartition("_")
    if {name.lower(), first if number.isdigit() else ""} & {other.lower() for other in loaded}:
        raise ValueError("its name means a vector of another embedding")


def _read(file: Path, encoders: Sequence[_Encoder]) -> list[torch.Tensor]:
    """``(vectors, width)`` for each text encoder.

    Raises:
        ValueError: the file is for another family, or holds NaN or infinity.
        OSError, SafetensorError: the file cannot be read.
    """
    tensors = load_file(file)
    if len(encoders) > 1 and not {*_SDXL_KEYS} <= tensors.keys():
        raise ValueError("the file is not for SDXL: it lacks clip_l or clip_g")
    if len(encoders) == 1 and len(tensors) != 1:
        raise ValueError(f"the file must have one tensor, but it has {len(tensors)}")
    keys = _SDXL_KEYS if len(encoders) > 1 else tuple(tensors)
    return [_checked(tensors[key], encoder) for key, encoder in zip(keys, encoders, strict=True)]


def _checked(tensor: torch.Tensor, encoder: _Encoder) -> torch.Tensor:
    vectors = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
    most = encoder.tokenizer.model_max_length - encoder.tokenizer.num_special_tokens_to_add()
    if vectors.ndim != 2 or not 1 <= len(vectors) <= most:
        raise ValueError(f"a tensor of shape {[*vectors.shape]} does not hold 1 to {most} vectors")
    if vectors.shape[1] != encoder.width:
        raise ValueError(
            f"its vectors have {vectors.shape[1]} numbers, but those of the model {encoder.width}"
        )
    if not torch.isfinite(vectors).all():
        raise ValueError("it contains NaN or infinity")
    return vectors


def _add(encoder: _Encoder, embeddings: Mapping[str, torch.Tensor]) -> None:
    tokens = [
        f"{name}_{index}" if index else name
        for name, vectors in embeddings.items()
        for index in range(len(vectors))
    ]
    if not tokens:
        return
    encoder.tokenizer.add_tokens(tokens)
    with torch.no_grad():
        encoder.model.resize_token_embeddings(len(encoder.tokenizer), mean_resizing=False)
        weight = encoder.model.get_input_embeddings().weight
        ids = encoder.tokenizer.convert_tokens_to_ids(tokens)
        weight[ids] = torch.cat([*embeddings.values()]).to(weight)
