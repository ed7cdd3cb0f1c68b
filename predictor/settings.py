"""Every setting of the predictor; flags, docs/settings.md and the chart are derived from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# What a safety layer does with a finding, from the mildest to the strictest.
SafetyAction = Literal["flag", "blur", "block"]
# ``auto`` is ``block`` if the layer has something to judge by, else ``off``.
SafetyPolicy = Literal["auto", "off", SafetyAction]
# The read timeout of nginx, and the idle timeout of many load balancers.
_USUAL_QUEUE_SECONDS = 60.0


class Settings(BaseSettings):
    """Flags (``--max_pixels``) take precedence over the environment (``PREDICTOR_MAX_PIXELS``)."""

    model_config = SettingsConfigDict(
        env_prefix="PREDICTOR_", frozen=True, protected_namespaces=(), validate_default=True
    )

    model_dir: Path = Field(
        default=Path("/mnt/models"),
        description="The folder of a published model, or the root of a volume. From a root, the "
        "server serves each model under its own name and loads it on its first request. KServe "
        "mounts `STORAGE_URI` here.",
    )
    host: str = Field(
        default="0.0.0.0",  # noqa: S104 - probes and the queue proxy connect from outside
        description="The address to listen on. Use `127.0.0.1` outside a pod.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="The form of the log: text, or one JSON object per line "
        "(docs/observability.md).",
    )
    log_prompts: bool = Field(
        default=False,
        description="Write the prompts of each request to the log and to traces. Without it, "
        "neither contains a prompt.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="The device that runs the pipeline. `auto` is the GPU if there is one.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="The number type of the weights. On a GPU, `auto` is the type of the model's "
        "family (docs/models.md); on a CPU it is float32.",
    )
    memory_preset: Literal["auto", "80gb", "24gb", "16gb", "12gb", "8gb", "none"] = Field(
        default="auto",
        description="Trades speed for GPU memory, unless the settings below say otherwise "
        "(docs/memory.md). `auto` saves as little as the model and the free GPU memory allow, and "
        "nothing on a CPU.",
    )
    attention: Literal["auto", "sdpa", "xformers", "sliced"] = Field(
        default="auto",
        description="The attention implementation. `auto` is `sdpa`, PyTorch's own; `sliced` "
        "computes one head at a time.",
    )
    vae_slicing: bool | None = Field(
        default=None, description="Decode the pictures of a batch one at a time."
    )
    vae_tiling: bool | None = Field(
        default=None,
        description="Decode pictures larger than the model's native size in blended tiles.",
    )
    offload: Literal["none", "model", "sequential"] | None = Field(
        default=None,
        description="Keep the weights in CPU memory and move them to the GPU when needed: one "
        "component at a time (`model`, slower) or one layer at a time (`sequential`, much slower).",
    )
    channels_last: bool | None = Field(
        default=None,
        description="Use the channels-last memory format, which suits tensor cores. If unset, a "
        "server with a GPU measures at start whether it is faster for the UNet.",
    )
    fused_qkv: bool = Field(
        default=False,
        description="Compute query, key and value of the denoiser's attention in one matrix "
        "product.",
    )
    tf32: bool = Field(
        default=False,
        description="Let the GPU use TensorFloat-32 for float32 products: faster, less precise.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the denoiser with `torch.compile` before the model is ready. Steps "
        "are faster; the start takes minutes longer.",
    )
    compile_shapes: str = Field(
        default="",
        pattern=r"^(\d+x\d+(,\d+x\d+)*)?$",
        description="The sizes to compile for, as `512x512,768x512`; other sizes run uncompiled. "
        "Empty means the model's native size. CUDA graphs are captured for these sizes too.",
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        default="auto",
        description="`auto` captures CUDA graphs of the denoiser before the model is ready, on a "
        "GPU and for batches that are faster that way (docs/memory.md). `off` captures none.",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="A folder that outlives the process, for compiled kernels and for what the "
        "engine learns about batch sizes; pods can share it. Whoever can write to it can run code "
        "in the predictor (docs/operations.md).",
    )
    max_side: int = Field(
        default=2048, ge=64, description="The largest width or height of a picture, in pixels."
    )
    max_pixels: int = Field(
        default=1_572_864,
        ge=4096,
        description="The largest width x height. Raise it if the GPU has the memory.",
    )
    max_num_inference_steps: int = Field(
        default=150, ge=1, description="The largest `num_inference_steps`."
    )
    max_guidance_scale: float = Field(
        default=30.0, ge=1.0, description="The largest `guidance_scale`."
    )
    max_prompt_length: int = Field(
        default=4096, ge=1, description="The longest prompt or negative prompt, in characters."
    )
    max_images_per_request: int = Field(
        default=16, ge=1, description="The most pictures in one request, over all instances."
    )
    max_queue_length: int = Field(
        default=64,
        ge=1,
        description="The most pictures that wait for the engine. Further requests get 429 at once "
        "instead of a timeout later. An idle server accepts any single request.",
    )
    max_queue_seconds: float = Field(
        default=0.0,
        ge=0,
        description="The longest estimated wait of a picture in the queue. Further requests get "
        "429. 0 means `request_timeout_seconds`, or 60 if that is 0: most proxies and clients stop "
        "waiting after a minute.",
    )
    max_lanes: int = Field(
        default=64,
        ge=2,
        description="The most samples in one forward pass of the denoiser; a guided picture takes "
        "two. The server learns from its work where larger batches stop paying off, and uses "
        "no more than that. Also bounds the pictures in progress, in the same unit: a small value "
        "trades throughput for latency.",
    )
    request_timeout_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long one request may take from the end of its body until its pictures are "
        "generated, including the waits; then the server returns 504. 0 means no limit.",
    )
    engine_stall_seconds: float = Field(
        default=600.0,
        ge=0,
        description="How long the first step at a new size, or similar new work of the engine, may "
        "take before liveness fails and Kubernetes restarts the pod. Work that the engine has done "
        "before may take 20 times the longest so far, but at least 120 s, or this setting if it is "
        "shorter. Raise it for a slow CPU; 0 means no limit.",
    )
    max_body_bytes: int = Field(
        default=16_777_216,
        ge=1024,
        description="The largest request body, including its pictures (a third larger as base64). "
        "The server rejects a longer one with 413.",
    )
    max_image_pixels: int = Field(
        default=33_554_432,
        ge=4096,
        description="The largest width x height of an input picture, before it is resized. The "
        "server reads it from the file header before it decodes any pixels. Each of the two "
        "processes that decode takes up to 256 MiB and 16 bytes per pixel (docs/memory.md).",
    )
    cors_origins: str = Field(
        default="",
        pattern=r"^(\*|https?://[^\s,/*]+(,\s*https?://[^\s,/*]+)*)?$",
        description="The web pages that may call the server from a browser: their origins, "
        "separated by commas, as in `https://app.example.com`, or `*` for all. Empty turns CORS "
        "off.",
    )
    ui: bool = Field(
        default=True,
        description="Serve the page at `/ui`, from which people request pictures in a browser "
        "(docs/page.md).",
    )
    a1111_api: bool = Field(
        default=False,
        description="Serve the API of AUTOMATIC1111's web UI under `/sdapi/v1`, for SillyTavern, "
        "Open WebUI and others (docs/clients.md).",
    )
    safety_checker: SafetyPolicy = Field(
        default="auto",
        description="The action when the checkpoint's own safety checker fires: `off`, `flag`, "
        "`blur` or `block`. `auto` is `block` if the checkpoint has one.",
    )
    safety_classifier: SafetyPolicy = Field(
        default="auto",
        description="The same for the model in the folder's `safety_classifier/`. `auto` is "
        "`block` if there is one.",
    )
    safety_classifier_labels: str = Field(
        default="",
        description="The labels of that model that count, separated by commas. If there are none, "
        "the server does not start and lists the labels that the model has.",
    )
    safety_classifier_threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="The probability at which it fires: the sum over the labels, or the highest "
        "one if the model gives each label its own probability.",
    )
    block_list: SafetyPolicy = Field(
        default="auto",
        description="The action when a prompt contains a term of the block list. `auto` is "
        "`block` if `block_list_file` is set.",
    )
    block_list_file: Path | None = Field(
        default=None,
        description="A text file with one term per line; `#` begins a comment line. Changes take "
        "effect within a second.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="A file with the hashes of bearer keys (docs/security.md). If set, every route "
        "except probes, metrics and the page requires a key. Changes take effect in a second.",
    )
    key_requests_per_minute: int = Field(
        default=0, ge=0, description="The most requests of one key in a minute; 0 is unlimited."
    )
    key_pictures_per_minute: int = Field(
        default=0, ge=0, description="The most pictures of one key in a minute; 0 is unlimited."
    )
    key_megapixels_per_minute: float = Field(
        default=0.0,
        ge=0,
        description="The most megapixels of one key in a minute: width x height of each picture, "
        "divided by a million. 0 is unlimited.",
    )
    address_requests_per_minute: int = Field(
        default=0,
        ge=0,
        description="The same for the requests of one IPv4 address or IPv6 network (/64), with or "
        "without a key.",
    )
    address_pictures_per_minute: int = Field(
        default=0, ge=0, description="The same for the pictures of one address."
    )
    address_megapixels_per_minute: float = Field(
        default=0.0, ge=0, description="The same for the megapixels of one address."
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        description="How many proxies in front of the server append to `X-Forwarded-For`, which "
        "then gives the address of a caller. 0 takes it from the connection.",
    )
    rate_limit_storage: SecretStr | None = Field(
        default=None,
        description="The URL of a Redis or Valkey that all replicas share, such as "
        "`redis://:password@host:6379/0`, for the counters of the limits. If unset, each replica "
        "counts for itself.",
    )
    rate_limit_timeout_seconds: float = Field(
        default=0.5,
        gt=0,
        description="How long a request waits for that Redis, at most once in five seconds. "
        "Raise it for a Redis that is not in the same cluster.",
    )
    rate_limit_failure: Literal["open", "closed"] = Field(
        default="open",
        description="While that Redis does not answer: `open` serves requests without limits, "
        "`closed` rejects them with 503.",
    )
    memory_budget_gib: float = Field(
        default=0.0,
        ge=0,
        description="For a volume of models: how much memory the weights of all loaded models may "
        "take. Above it the server unloads the least recently used idle model. 0 means three "
        "quarters of the GPU memory that is free at the first load, or of the container's memory.",
    )
    max_download_wait_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long to wait at start for a download to complete. Meanwhile the port is "
        "open, the pod is not ready, and requests get 503. With 0 the process exits at once. "
        "Requires the root of the volume as the mount, because a `subPath` is resolved before the "
        "start.",
    )
    wait_for_load: bool = Field(
        default=False,
        description="While the only model of a server loads, let requests wait for it. Without "
        "this, they get 503 at once, except those that accept `text/event-stream`, which report "
        "the wait. On a volume of models, requests always wait.",
    )
    max_load_wait_seconds: float = Field(
        default=120.0,
        gt=0,
        description="How long a request waits for its model to load; then it gets 503.",
    )
    preload: str = Field(
        default="",
        description="For a volume of models: the names, separated by commas, of the models to "
        "load before the pod is ready. If empty, the pod is ready once the libraries are imported.",
    )
    embed_metadata: bool = Field(
        default=True,
        description="Write prompt, seed, parameters and model revision into the picture file.",
    )
    drain_seconds: float = Field(
        default=5.0,
        ge=0,
        description="After SIGTERM: how long to keep serving new requests while the cluster "
        "removes the pod from its endpoints. After Ctrl-C (SIGINT) the wait ends as soon as no "
        "client is connected.",
    )
    shutdown_seconds: int = Field(
        default=120,
        ge=1,
        description="After that: how long requests in flight may take; then they get 503. Keep the "
        "sum of both below the pod's `terminationGracePeriodSeconds`.",
    )

    @field_validator("model_dir")
    @classmethod
    def _keep_the_link(cls, folder: Path) -> Path:
        """Make it absolute, but keep the link: each load resolves the link to a revision once."""
        return folder.absolute()

    @property
    def queue_seconds(self) -> float:
        """The effective ``max_queue_seconds``."""
        return self.max_queue_seconds or self.request_timeout_seconds or _USUAL_QUEUE_SECONDS

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins in ``cors_origins``."""
        return tuple(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())

    @property
    def preload_names(self) -> tuple[str, ...]:
        """The names in ``preload``."""
        return tuple(name.strip() for name in self.preload.split(",") if name.strip())
