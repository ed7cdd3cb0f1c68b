"""The identifiers of a request: which are accepted, and that the engine's lines carry them."""

from __future__ import annotations

import io
import json
import logging

import pytest

from predictor.engine import inbox
from predictor.logs import _JsonFormatter
from predictor.request_context import (
    RequestContext,
    current_request,
    enter_request,
    trace_id_of,
    valid_request_id,
)
from tests.predictor.fake_denoiser import Scene, request, run_story

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("given", ["a", "x" * 128, "0.1-a_B"])
def test_a_valid_identifier_is_kept(given: str) -> None:
    assert valid_request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\n", "é", "a;b", '{"a": 1}'])
def test_any_other_identifier_is_replaced(given: str | None) -> None:
    made = valid_request_id(given)

    assert len(made) == 32
    assert made != valid_request_id(given)


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"00-{TRACE}-b7ad6b7169203331-00", TRACE),
        # A later version may append fields.
        (f"01-{TRACE}-b7ad6b7169203331-01-more", TRACE),
        (None, ""),
        ("", ""),
        (f"00-{TRACE}-b7ad6b7169203331", ""),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", ""),
        (f"01-{TRACE}-b7ad6b7169203331-01more", ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
    ],
)
def test_a_trace_is_read_as_the_standard_says(traceparent: str | None, trace_id: str) -> None:
    assert trace_id_of(traceparent) == trace_id


def test_outside_of_a_request_nothing_is_kept() -> None:
    current_request().caller = "someone"

    assert current_request().caller == ""


def test_the_engines_lines_carry_the_identifiers_of_their_request() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(_JsonFormatter())

    async def story(scene: Scene) -> None:
        for prompt in ("no step", "no timesteps"):
            enter_request(RequestContext(prompt.replace(" ", "-"), TRACE))
            (failing,) = scene.submit(request(prompt))
            scene.run_free()
            with pytest.raises(Exception, match="generating the picture failed"):
                await failing

    inbox.logger.addHandler(handler)
    try:
        run_story(story)
    finally:
        inbox.logger.removeHandler(handler)

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["request_id"] for line in lines] == ["no-step", "no-timesteps"]
    assert {line["trace_id"] for line in lines} == {TRACE}
    assert all("ValueError" in line["trace"] for line in lines)
