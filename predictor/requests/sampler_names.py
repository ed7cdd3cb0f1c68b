"""The sampler names of AUTOMATIC1111's web UI, and the ``scheduler`` that each stands for.

From diffusers' own table: docs/source/en/api/schedulers/overview.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

EQUIVALENTS: Mapping[str, str] = {
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ SDE Karras": "dpmpp_sde_karras",
    "Euler": "euler",
    "Euler a": "euler_a",
    "Heun": "heun",
    "LMS": "lms",
    "DDIM": "ddim",
    "PLMS": "pndm",
    "UniPC": "unipc",
    "LCM": "lcm",
}

# Similar in method and order: another name gives another picture, so the caller has to choose it.
NEAREST: Mapping[str, tuple[str, ...]] = {
    "DPM2": ("heun", "dpmpp_2m"),
    "DPM2 Karras": ("dpmpp_2m_karras", "heun"),
    "DPM2 a": ("euler_a", "dpmpp_sde"),
    "DPM2 a Karras": ("dpmpp_sde_karras", "euler_a"),
    "DPM++ 2S a": ("dpmpp_sde", "euler_a"),
    "DPM++ 2S a Karras": ("dpmpp_sde_karras", "euler_a"),
    "DPM++ 2M SDE Heun": ("dpmpp_2m_sde", "dpmpp_2m_sde_karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde_karras", "dpmpp_2m_sde"),
    "DPM++ 3M SDE": ("dpmpp_2m_sde", "dpmpp_2m_sde_karras"),
    "DPM++ 3M SDE Karras": ("dpmpp_2m_sde_karras", "dpmpp_2m_sde"),
    "DPM++ 3M SDE Exponential": ("dpmpp_2m_sde_karras", "dpmpp_2m_sde"),
    "DPM fast": ("dpmpp_2m", "unipc"),
    "DPM adaptive": ("dpmpp_2m_karras", "heun"),
    "LMS Karras": ("lms", "dpmpp_2m_karras"),
    "Restart": ("heun", "dpmpp_sde_karras"),
}


def _folded(name: str) -> str:
    return " ".join(name.lower().split())


_SCHEDULERS = {_folded(sampler): name for sampler, name in EQUIVALENTS.items()}
_NEAREST = {_folded(sampler): names for sampler, names in NEAREST.items()}


def scheduler_of(name: str) -> str:
    """The scheduler for a sampler's name in any case; any other name is returned as it is."""
    return _SCHEDULERS.get(_folded(name), name)


def nearest_schedulers(name: str, known: Iterable[str]) -> list[str]:
    """Those of the ``known`` schedulers that come nearest to a sampler without an equivalent."""
    return [nearest for nearest in _NEAREST.get(_folded(name), ()) if nearest in known]
