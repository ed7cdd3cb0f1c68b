"""Measure the peak memory under each preset, each in its own process.

``python -m bench.memory`` writes ``bench/results/memory.json``. On a GPU it runs every preset on
the shapes of Stable Diffusion 1.5 and SDXL in float16 and reads the peak of PyTorch's allocator.
On a CPU it runs the presets that need no GPU, with the real decoders behind smaller UNets at
192x192 pixels in float32, and reads the peak of the resident set. All weights are random.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from bench import random_models
from predictor.engine.capacity import step_once
from predictor.loading.apply import apply_tuning
from predictor.loading.presets import PRESETS
from predictor.pipelines.stable_diffusion import StableDiffusionDenoiser
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.tuning import Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "memory.json"
MIB = 2**20
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    # Otherwise the C library keeps freed memory, which would count.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    # Silences the libraries' warnings about random weights.
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
# The number of pictures that the step loop decodes in one call.
TOGETHER = 4

Figures = dict[str, Any]
Build = Callable[[], DiffusionPipeline]

ON_A_GPU: Mapping[str, tuple[Build, int]] = {
    "SD 1.5": (random_models.stable_diffusion_1_5, 512),
    "SDXL": (random_models.stable_diffusion_xl, 1024),
}
ON_A_CPU: Mapping[str, tuple[Build, int]] = {
    "SD 1.5": (random_models.decoder_of_stable_diffusion, 192),
    "SDXL": (random_models.decoder_of_sdxl, 192),
}


def main() -> int:
    """Measure all cases; with ``--case``, as a child process, only one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs=2, metavar=("FAMILY", "TUNING"))
    case = parser.parse_args().case
    if case:
        print(json.dumps(measure(case[0], tunings()[case[1]])))
        return 0
    result: Figures = {
        "device": torch.cuda.get_device_name() if _has_gpu() else platform.machine(),
        "measured": "allocated on the GPU" if _has_gpu() else "resident set of the process",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "unit": "MiB above what the loaded pipeline takes",
        "families": {family: _cases(family) for family in _families()},
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


def tunings() -> dict[str, Tuning]:
    """The presets without duplicates, and sliced attention."""
    possible = {
        name: what for name, what in PRESETS.items() if _has_gpu() or what.offload == "none"
    }
    # Presets with equal savings are measured once, under the name of the larger one.
    names = {what: name for name, what in reversed(possible.items())}
    presets = {name: Tuning(name, what) for what, name in reversed(names.items())}
    return presets | {"attention=sliced": Tuning(attention="sliced")}


def table(result: Figures) -> str:
    """A Markdown table with one case per row."""
    rows = [
        "| family | preset | loaded | a guided step | 4 pictures decoded | one, 4 times as large |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family, cases in result["families"].items():
        for name, figures in cases.items():
            cells = [f"{figures[key]:,}" for key in ("loaded", "step", "decode", "decode_large")]
            rows.append(f"| {family} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def measure(family: str, tuning: Tuning) -> Figures:
    """The figures of one case in MiB; valid only for the first case of a process."""
    build, side = _families()[family]
    loaded = _load(build, side, tuning)
    denoiser = denoiser_for(loaded)
    request = loaded.profile.default_request("a red circle")
    large = replace(request, width=2 * side, height=2 * side)
    figures = {"side": side, "loaded": round(_held() / MIB)}
    with torch.inference_mode():
        for name, work in {
            "step": lambda: step_once(denoiser, request, lanes=2),
            "decode": lambda: _decode(denoiser, request, TOGETHER),
            "decode_large": lambda: _decode(denoiser, large, 1),
        }.items():
            with _peak() as peak:
                work()
            figures[name] = round(peak[0] / MIB)
    return figures


def _cases(family: str) -> Figures:
    return {name: _in_a_child(family, name) for name in tunings()}


def _in_a_child(family: str, tuning: str) -> Figures:
    command = [sys.executable, "-m", "bench.memory", "--case", family, tuning]
    environment = os.environ | _ENVIRONMENT
    ended = subprocess.run(
        command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    print(family, tuning, figures, flush=True)
    return figures


def _load(build: Build, side: int, tuning: Tuning) -> DiffusersPipeline:
    device = torch.device("cuda" if _has_gpu() else "cpu")
    torch.manual_seed(0)
    pipeline = build().to(torch.float16 if _has_gpu() else torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    apply_tuning(pipeline, tuning, device)
    defaults = GenerationDefaults(side, side, 2, 5.0, "unipc")
    return DiffusersPipeline(
        pipeline, ModelProfile("random", defaults, 8, ("unipc",)), device, tuning
    )


def _decode(
    denoiser: StableDiffusionDenoiser, request: GenerationRequest, pictures: int
) -> Sequence[object]:
    latents = denoiser.begin(request).latents
    return denoiser.decode(torch.cat([latents] * pictures))


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Peak bytes above those held at the start; appended to the list on exit."""
    before = _held()
    _forget_the_peak()
    peak: list[int] = []
    yield peak
    if _has_gpu():
        torch.cuda.synchronize()
        peak.append(torch.cuda.max_memory_allocated() - before)
    else:
        peak.append(_of_the_process("VmHWM") - before)


def _forget_the_peak() -> None:
    if _has_gpu():
        torch.cuda.reset_peak_memory_stats()
    else:
        # proc(5): 5 resets the peak of the resident set.
        Path("/proc/self/clear_refs").write_text("5")


def _held() -> int:
    return torch.cuda.memory_allocated() if _has_gpu() else _of_the_process("VmRSS")


def _of_the_process(name: str) -> int:
    """The value of a line of ``/proc/self/status``, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def _families() -> Mapping[str, tuple[Build, int]]:
    return ON_A_GPU if _has_gpu() else ON_A_CPU


def _has_gpu() -> bool:
    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
