"""Generated bodies: each is a call, or an error whose message names a field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.errors import InvalidRequestError
from predictor.protocol import Call, decode_call, parse
from predictor.requests import GenerationDefaults, Limits, ModelProfile
from predictor.requests.fields import COMPOUNDS, FIELDS
from predictor.requests.sampler_names import EQUIVALENTS, NEAREST
from predictor.settings import Settings

PROFILE = ModelProfile(
    "r1",
    GenerationDefaults(64, 64, 4, 2.0, "unipc", 0.8),
    8,
    ("unipc", "euler", "euler_a", "lcm", "default"),
    tasks=("text-to-image", "image-to-image", "inpainting"),
    adapters=("ink",),
    controlnets=("canny",),
    has_refiner=True,
    most_steps={"lcm": 50},
    max_clip_skip=2,
    reads_weighted_prompts=True,
    rescaled_tasks=("text-to-image",),
    takes_true_cfg=True,
)
# A small limit, as the pictures of generated sizes are resized.
LIMITS = Limits(Settings(max_side=256), PROFILE)
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAAEUlEQVR42mNgYKhjYoBBBgYABsYAiTJyxkwAAAAASUVORK5"
    "CYII="
)
NAMES = [
    *(name for field in FIELDS for name in (field.name, *field.aliases)),
    *(*COMPOUNDS, "parameters", "instances", "xyz", ""),
]
FIELD = re.compile(
    r"(instances\[\d+\]|parameters|width x height|"
    + "|".join(re.escape(name) for name in NAMES if name)
    + r")\b"
)

numbers = st.one_of(
    st.integers(-3, 2**53 + 1),
    st.integers(0, 40).map(lambda number: number * 8),
    st.integers(0, 300).map(float),
    st.floats(),
    st.sampled_from([-1, -1.0, 20.5, 1e9, 1e19, 1e308, 10**19, 10**400, -(10**400)]),
)
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from([*EQUIVALENTS, *NEAREST, "unipc", "default", "jpg", "png", "ink", "canny"]),
    st.sampled_from(["64x64", "128X72", "1x1", "x", f"{'9' * 9}x8", "64x64x64"]),
    st.sampled_from([PIXEL, f"data:image/png;base64,\n{PIXEL}\n", f"{PIXEL[:40]}\n{PIXEL[40:]}"]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
pictures = st.one_of(texts, texts.map(lambda text: {"b64": text}))
entries = st.fixed_dictionaries(
    {},
    optional={"name": texts, "scale": numbers, "image": pictures, "x": scalars},
)
values = st.recursive(
    st.one_of(scalars, pictures, entries, st.lists(entries, max_size=2)),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=6,
)
sides = st.integers(8, 32).map(lambda number: number * 8)
shares = st.floats(0, 1)
valid: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(min_size=1, max_size=12),
    "negative_prompt": texts,
    "seed": st.sampled_from([-1, -1.0, 1e9]) | st.integers(0, 2**53 - 1),
    "width": sides | sides.map(float),
    "height": sides,
    "num_inference_steps": st.integers(1, 60) | st.just(20.0),
    "guidance_scale": st.floats(0, 30) | st.integers(0, 30),
    "scheduler": st.sampled_from([*EQUIVALENTS, *NEAREST, *PROFILE.schedulers]),
    "image": st.sampled_from([PIXEL, f"data:;base64,\n{PIXEL}\n"]) | st.just({"b64": PIXEL}),
    "mask_image": st.just(PIXEL),
    "strength": shares,
    "adapters": st.just([{"name": "ink"}]) | st.lists(entries, max_size=2),
    "controlnet": st.just({"name": "canny", "image": {"b64": PIXEL}}) | entries,
    "denoising_end": shares,
    "clip_skip": st.integers(0, 3),
    "guidance_rescale": shares,
    "true_cfg_scale": st.floats(0, 30),
    "prompt_syntax": st.sampled_from(["plain", "weighted"]),
    "num_images_per_prompt": st.integers(1, 4),
    "output_format": st.sampled_from(["png", "jpeg", "jpg", "webp"]),
    "previews": st.integers(0, 8),
    "timeout": st.floats(1, 86_400) | st.integers(1, 86_400),
    "size": st.tuples(sides, sides).map(lambda two: f"{two[0]}x{two[1]}"),
}
ALIASES = {name: field.name for field in FIELDS for name in (field.name, *field.aliases)}
# Few fields at a time, as most combinations of more are refused for the same reasons.
likely = st.lists(st.sampled_from([*ALIASES, *COMPOUNDS]), max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries(
        {"prompt": st.just("a star")}
        | {name: valid[ALIASES.get(name, name)] for name in names if name != "prompt"}
    )
)
# One field of any value: a name or a type is refused before the bounds are checked.
edges = st.builds(
    lambda body, name, value: body | {name: value}, likely, st.sampled_from(NAMES), scalars
)
unlikely = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
objects = likely | edges | unlikely
bodies = st.one_of(
    likely,
    objects,
    st.builds(lambda one, other: one | {"parameters": other}, likely, objects),
    st.builds(
        lambda listed, shared: {"instances": listed, "parameters": shared},
        st.lists(likely, min_size=1, max_size=3),
        likely.map(lambda shared: {name: shared[name] for name in shared if name != "prompt"}),
    ),
    st.builds(
        lambda listed, shared: {"instances": listed, "parameters": shared},
        st.lists(objects, max_size=3),
        unlikely,
    ),
)
quickly = settings(
    derandomize=True,
    deadline=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    # A failure prints its example, which may be long.
    print_blob=False,
)


def call_or_refusal(payload: Any) -> Call | InvalidRequestError:
    try:
        return decode_call(parse(payload, None, LIMITS), LIMITS)
    except InvalidRequestError as error:
        return error


@quickly
@given(bodies)
def test_every_body_is_a_call_or_an_error_that_names_a_field(body: dict[str, Any]) -> None:
    outcome = call_or_refusal(body)

    if isinstance(outcome, Call):
        assert outcome.pictures
        for picture in outcome.pictures:
            LIMITS.check(picture.request)
        return
    message = str(outcome)
    assert FIELD.match(message) or message.split(":")[0] in written(body), message
    assert len(message) < 1500
    assert not re.search(r"\b(None|NaN is|Traceback|[A-Z][a-z]+(Field|Error))\b", message)


def written(document: Any) -> set[str]:
    """All names in a document; an unknown one is a field that the caller named."""
    if isinstance(document, list):
        return {name for one in document for name in written(one)}
    if isinstance(document, dict):
        names = {name or '""' for name in document}
        return names | {name for one in document.values() for name in written(one)}
    return set()


@quickly
@given(bodies)
def test_every_body_is_the_same_as_json(body: dict[str, Any]) -> None:
    direct, outcome = call_or_refusal(body), call_or_refusal(json.dumps(body).encode())

    if not str(outcome).startswith("the body is not valid JSON: "):
        assert type(outcome) is type(direct)


@quickly
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b'{"prompt": "x", "seed": '])
def test_any_bytes_are_a_call_or_an_error(start: bytes, body: bytes) -> None:
    outcome = call_or_refusal(start + body)

    assert isinstance(outcome, Call) or str(outcome)
