"""Settings that cannot hold together: each stops the start-up with what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from predictor.errors import ModelLoadError
from predictor.pipelines.tuning import Tuning


@dataclass(frozen=True)
class Facts:
    """What the settings meet. Of the model nothing is known before it is read: so the defaults.

    ``dtype`` is torch's name without the dot. ``compile_shapes`` is the setting,
    ``has_networks`` whether a refiner or ControlNets lie beside the model.
    """

    tuning: Tuning
    device: str
    dtype: str
    has_xformers: bool
    has_compiler: bool = True
    has_adapters: bool = False
    has_networks: bool = False
    compile_shapes: str = ""
    can_compile: bool = True
    can_slice_attention: bool = True
    can_fuse_qkv: bool = True
    can_slice_vae: bool = True
    can_tile_vae: bool = True
    denoiser: str = ""
    vae: str = ""


@dataclass(frozen=True)
class Contradiction:
    """``sentence`` is filled from the facts' fields and the tuning's."""

    holds: Callable[[Facts], bool]
    sentence: str


CONTRADICTIONS = (
    Contradiction(
        lambda facts: facts.tuning.attention == "xformers" and facts.device != "cuda",
        "attention=xformers runs on a GPU alone and this is a CPU: set attention=sdpa",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention == "xformers" and not facts.has_xformers,
        "attention=xformers needs the package xformers, which is not installed: install it, or set "
        "attention=sdpa, which is quicker on most GPUs of today",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.offload != "none" and facts.device != "cuda",
        "offload={offload} needs a GPU to bring the weights to and this is a CPU: set offload=none",
    ),
    Contradiction(
        lambda facts: facts.tuning.tf32 and facts.device != "cuda",
        "tf32=true is a GPU's way to multiply and this is a CPU: set tf32=false",
    ),
    Contradiction(
        lambda facts: facts.dtype == "float16" and facts.device != "cuda",
        "dtype=float16 is slower than float32 on a CPU and overflows: set dtype=auto",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.offload != "none" and facts.tuning.compile,
        "compile=true cannot compile weights that offload={offload} (memory_preset is {preset}) "
        "moves to and fro: set compile=false, or offload=none where the model fits",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.offload != "none" and facts.has_networks,
        "offload={offload} (memory_preset is {preset}) does not move a refiner or ControlNets: set "
        "offload=none, or publish the model without them",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention == "sliced" and facts.tuning.compile,
        "compile=true would compile the slices of attention=sliced anew for each batch: set "
        "attention=sdpa, or compile=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention != "sdpa" and facts.tuning.fused_qkv,
        "fused_qkv=true comes with attention of its own and would undo attention={attention}: set "
        "attention=sdpa, or fused_qkv=false",
    ),
    Contradiction(
        lambda facts: facts.has_adapters and facts.tuning.fused_qkv,
        "fused_qkv=true would pass by the adapters that lie beside the model: set fused_qkv=false, "
        "or publish the model without adapters",
    ),
    Contradiction(
        lambda facts: facts.has_adapters and facts.tuning.compile,
        "compile=true compiles the denoiser without the adapters that lie beside the model: set "
        "compile=false, or publish the model without adapters",
    ),
    Contradiction(
        lambda facts: facts.tuning.compile and not facts.has_compiler,
        "compile=true needs a C++ compiler, which is not there: build the image with "
        "--build-arg APT_PACKAGES=g++, or set compile=false",
    ),
    Contradiction(
        lambda facts: bool(facts.compile_shapes) and not facts.tuning.compile,
        "compile_shapes={compile_shapes} is of no use without compilation: set compile=true, or "
        "leave compile_shapes empty",
    ),
    Contradiction(
        lambda facts: facts.tuning.compile and not facts.can_compile,
        "compile=true finds no unet and no transformer in this model: set compile=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention == "sliced" and not facts.can_slice_attention,
        "attention=sliced is for UNets and {denoiser} cannot slice: set attention=sdpa",
    ),
    Contradiction(
        lambda facts: facts.tuning.fused_qkv and not facts.can_fuse_qkv,
        "fused_qkv=true is not for {denoiser}: set fused_qkv=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.vae_slicing and not facts.can_slice_vae,
        "vae_slicing=true is not for {vae}: set vae_slicing=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.vae_tiling and not facts.can_tile_vae,
        "vae_tiling=true is not for {vae}: set vae_tiling=false",
    ),
)


def check(facts: Facts) -> None:
    """Refuse the first contradiction.

    Raises:
        ModelLoadError: one sentence, which says what to change.
    """
    for contradiction in CONTRADICTIONS:
        if contradiction.holds(facts):
            raise ModelLoadError(contradiction.sentence.format(**_words(facts)))


def _words(facts: Facts) -> dict[str, str]:
    return {
        "attention": facts.tuning.attention,
        "offload": facts.tuning.savings.offload,
        "preset": facts.tuning.preset,
        "compile_shapes": facts.compile_shapes,
        "denoiser": facts.denoiser,
        "vae": facts.vae,
    }
