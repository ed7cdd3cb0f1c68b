"""Speed and memory options of a pipeline, from the operator's settings and the preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from predictor.settings import Settings

Attention: TypeAlias = Literal["sdpa", "xformers", "sliced"]
Offload: TypeAlias = Literal["none", "model", "sequential"]


@dataclass(frozen=True)
class Savings:
    """Options that trade speed for memory; all are off by default."""

    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: Offload = "none"


@dataclass(frozen=True)
class Tuning:
    """The resolved speed and memory options; ``preset`` is the source of the savings."""

    preset: str = "none"
    savings: Savings = Savings()
    attention: Attention = "sdpa"
    channels_last: bool = False
    fused_qkv: bool = False
    tf32: bool = False
    compile: bool = False

    def __str__(self) -> str:
        """Format the preset, the attention and the enabled options for the log."""
        words = [f"preset {self.preset}", f"attention {self.attention}"]
        if self.savings.offload != "none":
            words.append(f"offload {self.savings.offload}")
        flags = ("channels_last", "fused_qkv", "tf32", "compile")
        words += [name for name in ("vae_slicing", "vae_tiling") if getattr(self.savings, name)]
        words += [name for name in flags if getattr(self, name)]
        return ", ".join(words)


PLAIN = Tuning()


def tune(settings: Settings, preset: str, savings: Savings) -> Tuning:
    """Combine the settings with the preset's ``savings``, which apply to unset options."""
    return Tuning(
        preset,
        Savings(
            vae_slicing=_first_set(settings.vae_slicing, savings.vae_slicing),
            vae_tiling=_first_set(settings.vae_tiling, savings.vae_tiling),
            offload=savings.offload if settings.offload is None else settings.offload,
        ),
        # xformers is slower than PyTorch's own attention on current GPUs.
        attention="sdpa" if settings.attention == "auto" else settings.attention,
        channels_last=bool(settings.channels_last),
        fused_qkv=settings.fused_qkv,
        tf32=settings.tf32,
        compile=settings.compile,
    )


def _first_set(setting: bool | None, preset: bool) -> bool:
    return preset if setting is None else setting
