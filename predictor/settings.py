"""Every setting of the predictor, documented once; flags, README and chart derive from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# What a safety layer does with a finding, from the mildest to the strictest.
SafetyAction = Literal["flag", "blur", "block"]
# ``auto`` is ``block`` if the layer has something to judge by, else ``off``.
SafetyPolicy = Literal["auto", "off", SafetyAction]


class Settings(BaseSettings):
    """Read from flags (``--max_pixels``), else from the environment (``PREDICTOR_MAX_PIXELS``)."""

    model_config = SettingsConfigDict(
        env_prefix="PREDICTOR_", frozen=True, protected_namespaces=(), validate_default=True
    )

    model_dir: Path = Field(
        default=Path("/mnt/models"),
        description="A published model's folder, or a volume's root: then each model on it is "
        "served under its own name, loaded when it is asked for. KServe mounts `STORAGE_URI` here.",
    )
    host: str = Field(
        default="0.0.0.0",  # noqa: S104 - a pod's probes and its queue proxy come from outside
        description="The address to listen on. Use `127.0.0.1` outside a pod.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where the pipeline runs. `auto` takes the GPU when there is one.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="The weights' type. `auto` is that of the model's family on a GPU "
        "(docs/models.md), and float32 on a CPU.",
    )
    memory_preset: Literal["auto", "80gb", "24gb", "16gb", "12gb", "8gb", "none"] = Field(
        default="auto",
        description="What is given up to save GPU memory, where the settings below do not say "
        "(docs/memory.md). `auto` gives up the least that the model and the GPU's free memory "
        "allow, and nothing on a CPU.",
    )
    attention: Literal["auto", "sdpa", "xformers", "sliced"] = Field(
        default="auto",
        description="How attention is computed. `auto` is `sdpa`, PyTorch's own; `sliced` takes "
        "one head after another.",
    )
    vae_slicing: bool | None = Field(
        default=None, description="Decode the pictures of a batch one after another."
    )
    vae_tiling: bool | None = Field(
        default=None,
        description="Decode pictures larger than the model's own size in tiles, blended at seams.",
    )
    offload: Literal["none", "model", "sequential"] | None = Field(
        default=None,
        description="Keep the weights in the pod's memory and bring them to the GPU when they are "
        "needed: a whole part at a time (`model`, slower) or a layer (`sequential`, far slower).",
    )
    channels_last: bool = Field(
        default=False,
        description="Keep convolutions' weights and pictures channels-last, as tensor cores do.",
    )
    fused_qkv: bool = Field(
        default=False,
        description="Compute query, key and value of the denoiser's attention in one product.",
    )
    tf32: bool = Field(
        default=False,
        description="Let the GPU round float32 products to TensorFloat-32: quicker, less exact.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the denoiser with `torch.compile` before the model is ready: minutes "
        "more to start, quicker steps.",
    )
    compile_shapes: str = Field(
        default="",
        pattern=r"^(\d+x\d+(,\d+x\d+)*)?$",
        description="The sizes to compile for, as `512x512,768x512`; other sizes run uncompiled. "
        "Empty is the model's own size.",
    )
    max_side: int = Field(
        default=2048, ge=64, description="The largest width or height of a picture, in pixels."
    )
    max_pixels: int = Field(
        default=1_572_864,
        ge=4096,
        description="The largest width x height. Raise it as far as the GPU's memory goes.",
    )
    max_num_inference_steps: int = Field(
        default=150, ge=1, description="The most denoising steps that a request may ask for."
    )
    max_guidance_scale: float = Field(
        default=30.0, ge=1.0, description="The largest `guidance_scale`."
    )
    max_prompt_length: int = Field(
        default=4096, ge=1, description="The longest prompt or negative prompt, in characters."
    )
    max_images_per_request: int = Field(
        default=16, ge=1, description="The most pictures of one request, over all its instances."
    )
    max_queue_length: int = Field(
        default=64,
        ge=1,
        description="The most pictures waiting behind those under way. Beyond it a request is "
        "refused with 429 rather than left to time out.",
    )
    max_lanes: int = Field(
        default=64,
        ge=2,
        description="The most samples in one forward pass of the denoiser; a guided picture takes "
        "two. Fewer are used where the device gains nothing from more, measured at start.",
    )
    request_timeout_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long the pictures of one request may take, waiting included; 504 after "
        "that. 0 sets no bound.",
    )
    max_body_bytes: int = Field(
        default=16_777_216,
        ge=1024,
        description="The largest request body, its pictures included (a third more as base64), "
        "refused with 413 above.",
    )
    max_image_pixels: int = Field(
        default=33_554_432,
        ge=4096,
        description="The largest width x height of a picture that a request brings, whatever size "
        "it is resized to. Read from the file's header before its pixels are decoded.",
    )
    safety_checker: SafetyPolicy = Field(
        default="auto",
        description="What the checkpoint's own safety checker does when it fires: `off`, `flag`, "
        "`blur` or `block`. `auto` is `block` where the checkpoint has one.",
    )
    safety_classifier: SafetyPolicy = Field(
        default="auto",
        description="The same for the model in the folder's `safety_classifier/`. `auto` is "
        "`block` where there is one.",
    )
    safety_classifier_labels: str = Field(
        default="",
        description="The labels of that model that count, with commas between them. A start "
        "without any is refused with the list of those it has.",
    )
    safety_classifier_threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="From which probability on it fires: that of the labels together, or of the "
        "likeliest where the model gives each its own.",
    )
    block_list: SafetyPolicy = Field(
        default="auto",
        description="What the block list does at a prompt with one of its terms. `auto` is "
        "`block` where there is a `block_list_file`.",
    )
    block_list_file: Path | None = Field(
        default=None,
        description="A text file with a term a line; `#` begins a comment line. Changes hold "
        "within a second.",
    )
    memory_budget_gib: float = Field(
        default=0.0,
        ge=0,
        description="Of a volume's models: how much memory the weights of those that are loaded "
        "may take together. Beyond it the least recently used idle one is unloaded. 0 takes three "
        "quarters of what the GPU has free at the first load, or of the container's memory.",
    )
    max_download_wait_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long to wait at start for a download that is not complete. Until then the "
        "port is open, the pod is not ready and requests are answered with 503. 0 ends the process "
        "at once. Needs the volume's root as mount, as a `subPath` is resolved before the start.",
    )
    max_load_wait_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Of a volume's models: how long a request waits for its model to be loaded; "
        "503 after that.",
    )
    preload: str = Field(
        default="",
        description="Of a volume's models: the names, separated by commas, of those that are "
        "loaded before the pod is ready. Without any it is ready once the libraries are imported.",
    )
    embed_metadata: bool = Field(
        default=True,
        description="Write prompt, seed, parameters and model revision into the picture file.",
    )
    drain_seconds: float = Field(
        default=5.0,
        ge=0,
        description="After SIGTERM: how long new requests are still served while the cluster takes "
        "the pod out of its endpoints. Ctrl-C (SIGINT) waits no longer than clients are connected.",
    )
    shutdown_seconds: int = Field(
        default=120,
        ge=1,
        description="After that: how long requests under way may take; 503 after that. Keep the "
        "sum below the pod's `terminationGracePeriodSeconds`.",
    )

    @field_validator("model_dir")
    @classmethod
    def _keep_the_link(cls, folder: Path) -> Path:
        """Absolute, but not resolved: each load follows the link to a revision, once."""
        return folder.absolute()

    @property
    def preload_names(self) -> tuple[str, ...]:
        """The names in ``preload``."""
        return tuple(name.strip() for name in self.preload.split(",") if name.strip())
