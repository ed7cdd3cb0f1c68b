"""Measure the demo model's accuracy over all scenes and draw a contact sheet."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.judge import Sighting, look_at
from demo.shapes import SIZE, Scene, all_scenes

_FOLDER = Path(__file__).resolve().parent
_COLUMNS = 28
_MARGIN = 2


def main() -> int:
    """Print the accuracy; the exit status is 1 if it is below ``--least``."""
    options = _parse_arguments()
    pipeline = _load(options.model)
    scenes = list(all_scenes())
    started = time.perf_counter()
    pictures = _generate(pipeline, scenes, options)
    seconds = time.perf_counter() - started
    sightings = [look_at(picture) for picture in pictures]
    accuracy = _report(scenes, sightings)
    print(f"{len(scenes)} pictures in {seconds:.0f} s; the sheet is {options.sheet}")
    _contact_sheet(scenes, pictures, sightings).save(options.sheet)
    return 0 if accuracy >= options.least else 1


def _parse_arguments() -> argparse.Namespace:
    defaults = json.loads((_FOLDER / "model" / "generation_defaults.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=_FOLDER / "model")
    parser.add_argument("--sheet", type=Path, default=_FOLDER / "contact-sheet.png")
    parser.add_argument("--steps", type=int, default=defaults["num_inference_steps"])
    parser.add_argument("--guidance-scale", type=float, default=defaults["guidance_scale"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="the first picture's seed")
    parser.add_argument("--least", type=float, default=0.95, help="minimum accuracy")
    return parser.parse_args()


def _load(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, variant="fp16", dtype=torch.float32, use_safetensors=True
    )
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _generate(
    pipeline: StableDiffusionPipeline, scenes: list[Scene], options: argparse.Namespace
) -> list[Image.Image]:
    pictures: list[Image.Image] = []
    for start in range(0, len(scenes), options.batch_size):
        batch = scenes[start : start + options.batch_size]
        seeds = range(options.seed + start, options.seed + start + len(batch))
        output = pipeline(
            [scene.prompt for scene in batch],
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            width=SIZE,
            height=SIZE,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        )
        pictures += output.images
    return pictures


def _report(scenes: list[Scene], sightings: list[Sighting]) -> float:
    for scene, seen in zip(scenes, sightings, strict=True):
        if not seen.shows(scene):
            print(
                f"wrong: {scene.prompt!r} shows a {seen.colour} {seen.shape} on {seen.background}"
                f" (overlap {seen.overlap:.2f})"
            )
    pairs = list(zip(scenes, sightings, strict=True))
    right = sum(seen.shows(scene) for scene, seen in pairs)
    for part in ("colour", "background", "shape"):
        agreeing = sum(getattr(seen, part) == getattr(scene, part) for scene, seen in pairs)
        print(f"{part}: {agreeing / len(pairs):.1%}")
    print(f"accuracy: {right / len(pairs):.1%} ({right} of {len(pairs)})")
    return right / len(pairs)


def _contact_sheet(
    scenes: list[Scene], pictures: list[Image.Image], sightings: list[Sighting]
) -> Image.Image:
    """All pictures in order, with a magenta frame around the wrong ones."""
    cell = SIZE + 2 * _MARGIN
    rows = -(-len(pictures) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * cell, rows * cell), "grey")
    for index, picture in enumerate(pictures):
        corner = (index % _COLUMNS * cell, index // _COLUMNS * cell)
        if not sightings[index].shows(scenes[index]):
            sheet.paste(Image.new("RGB", (cell, cell), "magenta"), corner)
        sheet.paste(picture, (corner[0] + _MARGIN, corner[1] + _MARGIN))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
