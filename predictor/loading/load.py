"""The published model folder to a warm pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from modelstore import IncompleteModelError, Marker
from modelstore.layout import MODEL_INDEX_NAME
from predictor.errors import ModelLoadError
from predictor.families.profile import read_profile
from predictor.loading.controlnets import load_controlnets
from predictor.loading.device import pick_device, pick_dtype
from predictor.loading.refiner import read_refiner, refuse_refiner_alone, warm_up_refiner
from predictor.pipelines.adapter_files import find_adapters
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings


def load_pipeline(settings: Settings) -> DiffusersPipeline:
    """Load the published model folder and make one picture with it.

    Raises:
        ModelLoadError: the folder is incomplete, does not load, or makes no picture.
    """
    marker = _read_marker(settings.model_dir)
    refuse_refiner_alone(settings.model_dir)
    device = pick_device(settings)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            settings.model_dir,
            dtype=pick_dtype(settings, device),
            variant=marker.variant,
            use_safetensors=True,
            local_files_only=True,
            **_left_out(settings.model_dir),
        ).to(device)
        refiner = read_refiner(pipeline, settings.model_dir, marker)
        if refiner is not None:
            warm_up_refiner(refiner.to(device))
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"model {marker.name!r} does not load: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    profile = read_profile(
        pipeline, settings.model_dir, marker.revision, has_refiner=refiner is not None
    )
    loaded = DiffusersPipeline(
        pipeline,
        profile,
        adapter_files=find_adapters(settings.model_dir),
        controlnets=load_controlnets(settings.model_dir, pipeline, device),
        refiner=DiffusersPipeline(refiner, profile) if refiner is not None else None,
    )
    loaded.warm_up()
    return loaded


def _left_out(folder: Path) -> dict[str, Any]:
    """What diffusers must be told not to load: components that the index leaves empty (SD3 without
    T5), and the safety checker, which ``predictor.safety`` runs and no pipeline.
    """
    index = json.loads((folder / MODEL_INDEX_NAME).read_text(encoding="utf-8"))
    left_out: dict[str, Any] = {name: None for name, entry in index.items() if entry == [None] * 2}
    if "safety_checker" in index:
        left_out["safety_checker"] = None
    if "requires_safety_checker" in index:
        left_out["requires_safety_checker"] = False
    return left_out


def _read_marker(folder: Path) -> Marker:
    try:
        marker = Marker.read(folder)
        marker.check_sizes(folder)
    except IncompleteModelError as error:
        raise ModelLoadError(
            f"{error}; let the downloader finish (`kubectl get jobs`), or publish a folder with "
            "`python -m downloader --source hf://owner/name --name NAME --target VOLUME` and serve "
            "VOLUME/NAME"
        ) from None
    return marker
