"""What the server does not do of A1111's fields and settings: refused, or without an effect."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Set
from itertools import islice
from typing import Any

from predictor.errors import InvalidRequestError
from predictor.requests.validation import shortened

# A name with one wrong letter; the names of A1111 themselves differ more.
_LIKENESS = 0.85
# The comparison takes about 0.5 ms for each name, on the event loop.
_MOST_COMPARED = 8
_NOTHING: tuple[Any, ...] = (False, "", [], {}, "None")
# What the server cannot do, by field: the values that ask for nothing, and the reason.
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "enable_hr": (_NOTHING, "the server has no second pass: send the final width and height"),
    "restore_faces": (_NOTHING, "the server has no model that restores faces"),
    "tiling": (_NOTHING, "the server makes no tiles"),
    "subseed_strength": (_NOTHING, "the server has no variation seeds"),
    "seed_resize_from_w": ((*_NOTHING, -1), "the server does not resize seeds"),
    "seed_resize_from_h": ((*_NOTHING, -1), "the server does not resize seeds"),
    "styles": (_NOTHING, "the server has no styles: write them into the prompt"),
    "script_name": (_NOTHING, "the server runs no scripts"),
    "infotext": (_NOTHING, "the server does not read it: send the fields themselves"),
    "disable_extra_networks": (_NOTHING, "remove `<lora:...>` from the prompt instead"),
    "refiner_checkpoint": (_NOTHING, "a refiner belongs to the model and runs by itself"),
    "firstpass_image": (_NOTHING, "send it as `init_images` to img2img"),
    "latent_mask": (_NOTHING, "send `mask`"),
    "eta": ((0, 1), "each sampler has its own: omit it"),
    "s_churn": (_NOTHING, "the samplers add no noise of their own: omit it"),
    "s_min_uncond": (_NOTHING, "guidance applies to every step: omit it"),
    "s_noise": ((1,), "it is always 1: omit it"),
    "initial_noise_multiplier": ((1,), "it is always 1: omit it"),
    "send_images": ((True,), "the server stores no pictures, so it always sends them"),
    "inpainting_fill": ((1,), "the server keeps what is under the mask: send 1"),
    "inpaint_full_res": (_NOTHING, "the server repaints the picture at its own size: send false"),
    "resize_mode": (_NOTHING, "the server stretches a picture of another size: send 0"),
}
# Accepted without an effect: what A1111 does with files and jobs, what matters only together with
# a refused field, and what SillyTavern, Forge and SD.Next add.
WITHOUT_EFFECT = (
    *("save_images", "do_not_save_samples", "do_not_save_grid", "include_init_images"),
    *("force_task_id", "comments", "override_settings_restore_afterwards", "script_args"),
    *("subseed", "s_tmin", "s_tmax", "image_cfg_scale", "mask_round"),
    *("inpaint_full_res_padding", "refiner_switch_at", "firstphase_width", "firstphase_height"),
    *("hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y"),
    *("hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt"),
    *("hr_additional_modules", "hr_cfg", "hr_distilled_cfg", "url", "auth", "eta_noise_seed_delta"),
)
# ``override_settings``: the values that ask for nothing; None for any.
_SETTINGS: Mapping[str, tuple[Any, ...] | None] = {
    "sd_vae": (*_NOTHING, "Automatic"),
    "forge_additional_modules": (*_NOTHING, ["Automatic"]),
    "eta_noise_seed_delta": _NOTHING,
    "return_grid": None,
    "samples_save": None,
    "grid_save": None,
    "save_images_add_number": None,
    "enable_pnginfo": None,
}


def check_names(document: Mapping[str, Any], known: Set[str]) -> None:
    """Refuse a misspelled name, which would have no effect; ignore others, as A1111 does.

    Raises:
        InvalidRequestError: names the nearest of the ``known`` names.
    """
    unknown = (name for name in document if name not in known)
    for name in islice(unknown, _MOST_COMPARED):
        for nearest in difflib.get_close_matches(name[:64], known, n=1, cutoff=_LIKENESS):
            raise InvalidRequestError(
                shortened(name)[1:-1], f"unknown parameter; did you mean {nearest!r}?"
            )


def check_support(document: Mapping[str, Any]) -> None:
    """Refuse what the server cannot do.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    for name, (accepted, reason) in REFUSED.items():
        value = document.get(name)
        if value is not None and value not in accepted:
            raise InvalidRequestError(name, reason)
    scripts = document.get("alwayson_scripts")
    for name, script in scripts.items() if isinstance(scripts, dict) else ():
        if script and not (isinstance(script, dict) and not script.get("args")):
            raise InvalidRequestError(
                "alwayson_scripts", f"the server has no script {shortened(name)}"
            )


def check_settings(settings: Mapping[str, Any], read: Collection[str]) -> None:
    """Refuse settings of A1111 that have no meaning here; ``read`` are those that have one.

    Raises:
        InvalidRequestError: names the setting.
    """
    for name, value in settings.items():
        if name in read or value is None:
            continue
        accepted = _SETTINGS.get(name, ())
        if accepted is not None and value not in accepted:
            raise InvalidRequestError(
                "override_settings",
                f"{shortened(name)} cannot be set; the server reads {', '.join(read)}",
            )
