"""Contradictory settings: each stops startup with a message that says what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from predictor.errors import ModelLoadError
from predictor.pipelines.tuning import Tuning


@dataclass(frozen=True)
class Facts:
    """The environment of the settings. The defaults apply until the model is read.

    ``dtype`` is torch's name without ``torch.``. ``compile_shapes`` is the setting.
    ``has_networks`` is true if the model has a refiner or ControlNets, ``has_graphs`` if CUDA
    graphs may be captured.
    """

    tuning: Tuning
    device: str
    dtype: str
    has_xformers: bool
    has_compiler: bool = True
    has_adapters: bool = False
    has_networks: bool = False
    compile_shapes: str = ""
    has_graphs: bool = False
    can_compile: bool = True
    can_slice_attention: bool = True
    can_fuse_qkv: bool = True
    can_slice_vae: bool = True
    can_tile_vae: bool = True
    denoiser: str = ""
    vae: str = ""


@dataclass(frozen=True)
class Contradiction:
    """A condition and its error; ``sentence`` is a format string, see ``_words``."""

    holds: Callable[[Facts], bool]
    sentence: str


CONTRADICTIONS = (
    Contradiction(
        lambda facts: facts.tuning.attention == "xformers" and facts.device != "cuda",
        "attention=xformers requires a GPU, but the device is a CPU: set attention=sdpa",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention == "xformers" and not facts.has_xformers,
        "attention=xformers requires the xformers package, which is not installed: install it, or "
        "set attention=sdpa, which is faster on most current GPUs",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.offload != "none" and facts.device != "cuda",
        "offload={offload} requires a GPU, but the device is a CPU: set offload=none",
    ),
    Contradiction(
        lambda facts: facts.tuning.tf32 and facts.device != "cuda",
        "tf32=true requires a GPU, but the device is a CPU: set tf32=false",
    ),
    Contradiction(
        lambda facts: facts.dtype == "float16" and facts.device != "cuda",
        "dtype=float16 overflows on a CPU and is slower than float32: set dtype=auto",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.offload != "none" and facts.tuning.compile,
        "compile=true does not work with offload={offload} (memory_preset is {preset}), which "
        "moves the weights: set compile=false, or set offload=none if the model fits in memory",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.offload != "none" and facts.has_networks,
        "offload={offload} (memory_preset is {preset}) does not move a refiner or ControlNets: set "
        "offload=none, or publish the model without them",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention == "sliced" and facts.tuning.compile,
        "compile=true would recompile the slices of attention=sliced for each batch: set "
        "attention=sdpa, or compile=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention != "sdpa" and facts.tuning.fused_qkv,
        "fused_qkv=true replaces the attention and would override attention={attention}: set "
        "attention=sdpa, or fused_qkv=false",
    ),
    Contradiction(
        lambda facts: facts.has_adapters and facts.tuning.fused_qkv,
        "fused_qkv=true would bypass the model's adapters: set fused_qkv=false, or publish the "
        "model without adapters",
    ),
    Contradiction(
        lambda facts: facts.has_adapters and facts.tuning.compile,
        "compile=true does not work with the model's adapters: set compile=false, or publish the "
        "model without adapters",
    ),
    Contradiction(
        lambda facts: facts.tuning.compile and not facts.has_compiler,
        "compile=true requires a C++ compiler, which is not installed: build the image with "
        "--build-arg APT_PACKAGES=g++, or set compile=false",
    ),
    Contradiction(
        lambda facts: (
            bool(facts.compile_shapes) and not facts.tuning.compile and not facts.has_graphs
        ),
        "compile_shapes={compile_shapes} requires compile=true, or a GPU and cuda_graphs=auto: set "
        "compile=true, or leave compile_shapes empty",
    ),
    Contradiction(
        lambda facts: facts.tuning.compile and not facts.can_compile,
        "compile=true requires a unet or a transformer, and this model has neither: set "
        "compile=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.attention == "sliced" and not facts.can_slice_attention,
        "attention=sliced is not supported by {denoiser}, only by UNets: set attention=sdpa",
    ),
    Contradiction(
        lambda facts: facts.tuning.fused_qkv and not facts.can_fuse_qkv,
        "fused_qkv=true is not supported by {denoiser}: set fused_qkv=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.vae_slicing and not facts.can_slice_vae,
        "vae_slicing=true is not supported by {vae}: set vae_slicing=false",
    ),
    Contradiction(
        lambda facts: facts.tuning.savings.vae_tiling and not facts.can_tile_vae,
        "vae_tiling=true is not supported by {vae}: set vae_tiling=false",
    ),
)


def check(facts: Facts) -> None:
    """Check the facts against all contradictions.

    Raises:
        ModelLoadError: the sentence of the first contradiction that holds.
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
