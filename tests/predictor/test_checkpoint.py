"""A published folder as the predictor reads it from its marker."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelstore import FileEntry, Marker, PartEntry
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError


def checkpoint(folder: Path, *paths: str, parts: tuple[PartEntry, ...] = ()) -> Checkpoint:
    """Create a folder of an ``fp16`` model whose marker lists ``paths``."""
    files = tuple(FileEntry(path, 0, "") for path in paths)
    return Checkpoint(folder, Marker("m", "s", "r1", "fp16", "", files, parts=parts))


@pytest.mark.parametrize(
    ("path", "variant"),
    [
        ("safety_checker/model.fp16.safetensors", "fp16"),
        ("safety_checker/model.fp16-00001-of-00002.safetensors", "fp16"),
        ("safety_checker/model.safetensors", None),
        ("safety_checker/modelfp16.safetensors", None),
        ("unet/diffusion_pytorch_model.fp16.safetensors", None),
    ],
)
def test_a_component_has_the_variant_of_its_listed_files(
    tmp_path: Path, path: str, variant: str | None
) -> None:
    assert checkpoint(tmp_path, path).variant_of("safety_checker") == variant


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_a_part_has_the_variant_that_it_was_published_with(
    tmp_path: Path, variant: str | None
) -> None:
    part = PartEntry("controlnets/canny", "hf://owner/canny", "1", variant)
    listed = "controlnets/canny/diffusion_pytorch_model.fp16.safetensors"

    found = checkpoint(tmp_path, listed, parts=(part,))

    assert found.variant_of("controlnets/canny") == variant
    assert found.is_published("controlnets/canny")
    assert not found.is_published("refiner")


def test_an_incomplete_folder_is_rejected_with_the_remedy(tmp_path: Path) -> None:
    Marker("m", "s", "r1", None, "", (FileEntry("unet/config.json", 2, ""),)).write(tmp_path)

    with pytest.raises(
        ModelLoadError, match=r"has no unet/config\.json; let the downloader finish"
    ):
        Checkpoint.read(tmp_path)
