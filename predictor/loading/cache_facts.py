"""What kernels and learned bounds depend on; a cache holds for equal facts only."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from modelstore import Marker
from predictor.checkpoint.placement import pick_device
from predictor.engine import cpu_threads
from predictor.settings import Settings

_PACKAGES = ("torch", "triton", "diffusers", "transformers", "xformers")
_SETTINGS = (
    *("device", "dtype", "memory_preset", "attention", "vae_slicing", "vae_tiling", "offload"),
    *("channels_last", "fused_qkv", "tf32", "compile", "compile_shapes", "max_lanes"),
    "cuda_graphs",
)
_CPU_FIELDS = ("model name", "flags", "Features")


def facts_of(marker: Marker, settings: Settings) -> dict[str, str]:
    """The versions, the hardware, the model and the settings, as text."""
    files = sorted((entry.path, entry.sha256) for entry in marker.files)
    return {
        **{name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "threads": str(cpu_threads.ALL),
        **_gpu(settings),
        "source": marker.source,
        "revision": marker.revision,
        "files": _digest(files),
        **{name: str(getattr(settings, name)) for name in _SETTINGS},
    }


def key_of(facts: Mapping[str, str]) -> str:
    """The name of the facts in a cache folder."""
    return _digest(facts)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    """A digest of the CPU's model and instructions, which kernels are compiled for."""
    lines = _text("/proc/cpuinfo").splitlines()
    found = {line for line in lines if line.partition(":")[0].strip() in _CPU_FIELDS}
    return _digest(sorted(found))


def _gpu(settings: Settings) -> dict[str, str]:
    device = pick_device(settings)
    if device.type != "cuda":
        return {"gpu": "", "cuda": "", "driver": ""}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "driver": _text("/proc/driver/nvidia/version"),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
