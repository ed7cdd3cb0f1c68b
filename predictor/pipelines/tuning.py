"""What holds for a pipeline once the operator's settings and the preset are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from predictor.settings import Settings

Attention: TypeAlias = Literal["sdpa", "xformers", "sliced"]
Offload: TypeAlias = Literal["none", "model", "sequential"]


@dataclass(frozen=True)
class Savings:
    """What is given up to save memory; the defaults give up nothing."""

    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: Offload = "none"


@dataclass(frozen=True)
class Tuning:
    """Speed and memory of one pipeline, all decided; ``preset`` is where the savings came from."""

    preset: str = "none"
    savings: Savings = Savings()
    attention: Attention = "sdpa"
    channels_last: bool = False
    fused_qkv: bool = False
    tf32: bool = False
    compile: bool = False

    def __str__(self) -> str:
        """For the log: the preset, the attention, and each setting that is on."""
        words = [f"preset {self.preset}", f"attention {self.attention}"]
        if self.savings.offload != "none":
            words.append(f"offload {self.savings.offload}")
        flags = ("channels_last", "fused_qkv", "tf32", "compile")
        words += [name for name in ("vae_slicing", "vae_tiling") if getattr(self.savings, name)]
        words += [name for name in flags if getattr(self, name)]
        return ", ".join(words)


PLAIN = Tuning()


def tune(settings: Settings, preset: str, savings: Savings) -> Tuning:
    """The settings, and the preset's ``savings`` for those that are unset."""
    return Tuning(
        preset,
        Savings(
            vae_slicing=_first_set(settings.vae_slicing, savings.vae_slicing),
            vae_tiling=_first_set(settings.vae_tiling, savings.vae_tiling),
            offload=savings.offload if settings.offload is None else settings.offload,
        ),
        # xformers is slower than PyTorch's own on the GPUs of today.
        attention="sdpa" if settings.attention == "auto" else settings.attention,
        channels_last=settings.channels_last,
        fused_qkv=settings.fused_qkv,
        tf32=settings.tf32,
        compile=settings.compile,
    )


def _first_set(setting: bool | None, preset: bool) -> bool:
    return preset if setting is None else setting
