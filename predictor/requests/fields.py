"""The table of request fields: one row for each parameter that a caller may send.

Types and names of a body, bounds, ``GET /v2/models/{name}``, error suggestions and the table of
parameters in docs/api.md are derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from predictor.requests.field_types import (
    AdapterField,
    ControlNetField,
    FormatName,
    PictureText,
    SchedulerName,
    WholeNumber,
)
from predictor.requests.generation import PromptSyntax, Task
from predictor.requests.model_profile import ModelProfile
from predictor.settings import Settings

MIN_SIDE = 64
# Seeds stay exact in a JSON parser that reads numbers as doubles (RFC 8259, section 6).
MAX_SEED = 2**53 - 1
MAX_TIMEOUT_SECONDS = 86_400
# Of each picture; with more, a stream would send more bytes of previews than of the picture.
MAX_PREVIEWS = 8

# Names that set several fields, each with the fields in the order of its values.
COMPOUNDS: Mapping[str, tuple[str, ...]] = {"size": ("width", "height")}
SIZE_HELP = "Sets `width` and `height`, as in `512x768`."


class Bounds(NamedTuple):
    """From ``least`` to ``most``, for a string in characters; ``is_open`` excludes ``least``.

    ``exception`` describes a value outside that has a meaning of its own.
    """

    least: float
    most: float
    multiple: int = 1
    is_open: bool = False
    exception: str = ""


@dataclass(frozen=True, kw_only=True)
class RequestField:
    """One parameter of a request.

    ``type`` is what a JSON value must be, and ``datatype`` its name in the Open Inference Protocol;
    None for a value that is not a scalar, or that means nothing there. ``limits`` gives the names
    under which the metadata route publishes the two bounds; an empty name is not published.
    ``has_picture`` marks a value with a picture to decode. ``unsupported`` returns the reason why a
    model does not support the field, or None. The other texts are for docs/api.md.
    """

    name: str
    type: Any
    datatype: str | None
    type_in_words: str
    default: str
    bounds_in_words: str
    help: str
    aliases: tuple[str, ...] = ()
    bounds: Callable[[Settings, ModelProfile], Bounds] | None = None
    limits: tuple[str, str] = ("", "")
    has_picture: bool = False
    choices: Callable[[ModelProfile], tuple[str, ...]] | None = None
    unsupported: Callable[[ModelProfile], str | None] = lambda profile: None

    def reason_against(self, profile: ModelProfile) -> str | None:
        """Why the model does not support the field; None if it does."""
        return profile.unused_fields.get(self.name) or self.unsupported(profile)


def _side(settings: Settings, profile: ModelProfile) -> Bounds:
    return Bounds(MIN_SIDE, settings.max_side, multiple=profile.size_multiple)


def _needs_task(*tasks: Task) -> Callable[[ModelProfile], str | None]:
    """Why a model without these tasks does not support the field."""

    def reason(profile: ModelProfile) -> str | None:
        if set(tasks) & set(profile.tasks):
            return None
        return f"this model does not support {tasks[0]}; it supports {', '.join(profile.tasks)}"

    return reason


def _needs_clip_skip(profile: ModelProfile) -> str | None:
    if profile.max_clip_skip is not None:
        return None
    return "only Stable Diffusion 1.x, 2.x and SDXL support it"


def _needs_weighted_prompts(profile: ModelProfile) -> str | None:
    if profile.reads_weighted_prompts:
        return None
    return "only Stable Diffusion 1.x, 2.x and SDXL support weighted prompts"


def _needs_rescale(profile: ModelProfile) -> str | None:
    return None if profile.rescaled_tasks else "this model's pipeline does not accept it"


def _needs_true_cfg(profile: ModelProfile) -> str | None:
    return None if profile.takes_true_cfg else "only FLUX supports it; set guidance_scale"


FIELDS: tuple[RequestField, ...] = (
    RequestField(
        name="prompt",
        type=str,
        datatype="BYTES",
        type_in_words="string",
        default="required",
        bounds_in_words="1 to `max_prompt_length` characters",
        help="What the picture shows.",
        bounds=lambda settings, profile: Bounds(1, settings.max_prompt_length),
        limits=("", "max_prompt_length"),
    ),
    RequestField(
        name="negative_prompt",
        type=str,
        datatype="BYTES",
        type_in_words="string",
        default="empty",
        bounds_in_words="up to `max_prompt_length` characters",
        help="What the picture should not show.",
        bounds=lambda settings, profile: Bounds(0, settings.max_prompt_length),
    ),
    RequestField(
        name="seed",
        type=WholeNumber,
        datatype="INT64",
        type_in_words="integer",
        default="random, and returned",
        bounds_in_words="0 to 2⁵³-1; -1 draws one",
        help="The same request with the same seed returns the same picture.",
        bounds=lambda settings, profile: Bounds(0, MAX_SEED, exception="-1 draws one"),
        limits=("", "max_seed"),
    ),
    RequestField(
        name="width",
        type=WholeNumber,
        datatype="INT64",
        type_in_words="integer, pixels",
        default="the width of `image`, else the model's own",
        bounds_in_words="64 to `max_side`, a multiple of 8 (16 for some families)",
        help="Width x height is at most `max_pixels`.",
        bounds=_side,
        limits=("min_side", "max_side"),
    ),
    RequestField(
        name="height",
        type=WholeNumber,
        datatype="INT64",
        type_in_words="integer, pixels",
        default="the height of `image`, else the model's own",
        bounds_in_words="as for `width`",
        help="See `width`.",
        bounds=_side,
    ),
    RequestField(
        name="num_inference_steps",
        type=WholeNumber,
        datatype="INT64",
        type_in_words="integer",
        default="the model's, else its [family's](models.md#families)",
        bounds_in_words="1 to `max_num_inference_steps`",
        help="Denoising steps.",
        aliases=("steps",),
        bounds=lambda settings, profile: Bounds(1, settings.max_num_inference_steps),
        limits=("", "max_num_inference_steps"),
    ),
    RequestField(
        name="guidance_scale",
        type=float,
        datatype="FP64",
        type_in_words="number",
        default="the model's, else its family's",
        bounds_in_words="0 to `max_guidance_scale`",
        help="How closely the picture follows the prompt. Up to 1, guidance is off.",
        aliases=("cfg_scale",),
        bounds=lambda settings, profile: Bounds(0, settings.max_guidance_scale),
        limits=("", "max_guidance_scale"),
    ),
    RequestField(
        name="scheduler",
        type=SchedulerName,
        datatype="BYTES",
        type_in_words="string",
        default="the model's, else its family's",
        bounds_in_words="[fewer](models.md#schedulers) for SD3, FLUX and others",
        help="The noise scheduler: `unipc`, `dpmpp_2m`, `dpmpp_2m_karras`, `dpmpp_2m_sde`, "
        "`dpmpp_2m_sde_karras`, `dpmpp_sde`, `dpmpp_sde_karras`, `euler`, `euler_a`, `heun`, "
        "`lms`, `ddim`, `ddpm`, `pndm`, `lcm` or `default`, which is the checkpoint's own. Also "
        "[A1111's names](#sampler-names).",
        aliases=("sampler",),
        choices=lambda profile: profile.schedulers,
    ),
    RequestField(
        name="image",
        type=PictureText,
        datatype="BYTES",
        type_in_words='base64, data URI or `{"b64"}`',
        default="none",
        bounds_in_words="up to `max_image_pixels`, 32768 a side and 100 to 1",
        help="The picture to start from: a PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP file. See "
        "[image to image](#image-to-image).",
        unsupported=_needs_task("image-to-image", "inpainting"),
        has_picture=True,
    ),
    RequestField(
        name="mask_image",
        type=PictureText,
        datatype="BYTES",
        type_in_words='base64, data URI or `{"b64"}`',
        default="none",
        bounds_in_words="as for `image`",
        help="White marks the area to repaint; requires `image`. See [inpainting](#inpainting).",
        unsupported=_needs_task("inpainting"),
        has_picture=True,
    ),
    RequestField(
        name="strength",
        type=float,
        datatype="FP64",
        type_in_words="number",
        default="0.8; 1 with `mask_image`",
        bounds_in_words="above 0, up to 1, and enough for one step",
        help="The share of the steps that run; requires `image`.",
        bounds=lambda settings, profile: Bounds(0, 1),
        unsupported=_needs_task("image-to-image", "inpainting"),
    ),
    RequestField(
        name="adapters",
        type=list[AdapterField],
        datatype=None,
        type_in_words='list of `{"name", "scale"}`',
        default="none",
        bounds_in_words="each name once; scale -5 to 5, 1 by default",
        help="LoRAs from the model's `adapters/` folder; see [adapters](#adapters).",
    ),
    RequestField(
        name="controlnet",
        type=ControlNetField,
        datatype=None,
        type_in_words='`{"name", "image", "scale"}`',
        default="none",
        bounds_in_words="scale 0 to 10, 1 by default",
        help="A ControlNet from the model's `controlnets/` folder and the picture that guides it; "
        "see [ControlNet](#controlnet).",
        has_picture=True,
    ),
    RequestField(
        name="denoising_end",
        type=float,
        datatype="FP64",
        type_in_words="number",
        default="0.8, or the model's",
        bounds_in_words="above 0, up to 1",
        help="Where the [refiner](#refiner) takes over; only if the model has one. At 1 the base "
        "runs alone.",
        # Diffusers reads 0 as 1.
        bounds=lambda settings, profile: Bounds(0, 1, is_open=True),
        unsupported=lambda profile: None if profile.has_refiner else "the model has no refiner",
    ),
    RequestField(
        name="clip_skip",
        type=WholeNumber,
        datatype="INT64",
        type_in_words="integer",
        default="0",
        bounds_in_words="0 to one below the layers of a text encoder",
        help="Layers to skip at the end of the text encoders, for the prompt alone; see "
        "[CLIP skip](#clip-skip). SD 1.x, 2.x and SDXL only.",
        bounds=lambda settings, profile: Bounds(0, profile.max_clip_skip or 0),
        limits=("", "max_clip_skip"),
        unsupported=_needs_clip_skip,
    ),
    RequestField(
        name="guidance_rescale",
        type=float,
        datatype="FP64",
        type_in_words="number",
        default="0",
        bounds_in_words="0 to 1",
        help="Removes this share of the contrast that guidance adds; see "
        "[guidance rescale](#guidance-rescale).",
        bounds=lambda settings, profile: Bounds(0, 1),
        unsupported=_needs_rescale,
    ),
    RequestField(
        name="true_cfg_scale",
        type=float,
        datatype="FP64",
        type_in_words="number",
        default="1",
        bounds_in_words="0 to `max_guidance_scale`",
        help="Above 1, how strongly FLUX avoids `negative_prompt`, which it then requires; see "
        "[true guidance](#true-guidance). FLUX only.",
        bounds=lambda settings, profile: Bounds(0, settings.max_guidance_scale),
        unsupported=_needs_true_cfg,
    ),
    RequestField(
        name="prompt_syntax",
        type=PromptSyntax,
        datatype="BYTES",
        type_in_words="string",
        default="`plain`",
        bounds_in_words="`plain` or `weighted`",
        help="`weighted` reads weights such as `(word:1.3)` in both prompts and takes long "
        "prompts; see [weighted prompts](#weighted-prompts). SD 1.x, 2.x and SDXL only.",
        unsupported=_needs_weighted_prompts,
    ),
    RequestField(
        name="num_images_per_prompt",
        type=WholeNumber,
        datatype="INT64",
        type_in_words="integer",
        default="1",
        bounds_in_words="1 to `max_images_per_request` over the whole request",
        help="Pictures of this prompt, with consecutive seeds.",
        aliases=("n",),
        bounds=lambda settings, profile: Bounds(1, settings.max_images_per_request),
        limits=("", "max_images_per_request"),
    ),
    RequestField(
        name="output_format",
        type=FormatName,
        datatype="BYTES",
        type_in_words="string",
        default="from `Accept`, else `png`",
        bounds_in_words="`png`, `jpeg` or `jpg`, `webp`",
        help="The file format of the pictures.",
    ),
    RequestField(
        name="previews",
        type=WholeNumber,
        datatype=None,
        type_in_words="integer",
        default="0",
        bounds_in_words=f"0 to {MAX_PREVIEWS}",
        help="How many previews of each picture an event stream sends at most; see "
        "[previews](#previews).",
        bounds=lambda settings, profile: Bounds(0, MAX_PREVIEWS),
        limits=("", "max_previews"),
    ),
    RequestField(
        name="timeout",
        type=float,
        datatype="FP64",
        type_in_words="number, seconds",
        default="none",
        bounds_in_words="above 0, up to 86,400; `request_timeout_seconds` applies as well",
        help="How long the whole request may take. See [overload](#overload).",
        bounds=lambda settings, profile: Bounds(0, MAX_TIMEOUT_SECONDS, is_open=True),
    ),
)

CANONICAL: Mapping[str, str] = {
    name: field.name for field in FIELDS for name in (field.name, *field.aliases)
}
"""Each name or alias of a field to its name."""
