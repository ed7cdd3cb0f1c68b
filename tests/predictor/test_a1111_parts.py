"""The parts of A1111's API that need no server: prompts, samplers, callers, blocked pictures."""

from __future__ import annotations

import asyncio
import json
from contextvars import copy_context
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request

from predictor.access.addresses import exact_address
from predictor.edge.a1111_callers import Callers
from predictor.errors import (
    InterruptedCallError,
    InvalidRequestError,
    NotAuthorizedError,
    RefusedBySafetyError,
)
from predictor.images import OutputFormat
from predictor.protocol import Call
from predictor.protocol.call import Picture
from predictor.request_context import RequestContext, enter_request
from predictor.requests import GenerationRequest, GenerationResult, SafetyVerdict
from predictor.requests.sampler_names import EQUIVALENTS
from predictor.wire_formats.a1111_fields import A1111Request, MaskOptions
from predictor.wire_formats.a1111_prompts import read_prompt
from predictor.wire_formats.a1111_responses import A1111Form
from predictor.wire_formats.a1111_samplers import pair_of_scheduler, scheduler_of_pair


@pytest.mark.parametrize(
    ("prompt", "text", "adapters"),
    [
        ("a castle", "a castle", []),
        ("a castle <lora:sketch:0.8>", "a castle", [("sketch", 0.8)]),
        ("<lora:one> a <LORA:two:-1> castle", "a  castle", [("one", 1.0), ("two", -1.0)]),
        ("<lyco:x:0.5:0.5>, a castle", ", a castle", [("x", 0.5)]),
        ("1 < 2 > <b>", "1 < 2 > <b>", []),
    ],
)
def test_a_tag_in_the_prompt_names_an_adapter(
    prompt: str, text: str, adapters: list[tuple[str, float]]
) -> None:
    read = read_prompt(prompt)

    assert read.text == text
    assert [(one["name"], one["scale"]) for one in read.adapters] == adapters


@pytest.mark.parametrize(
    "tag", ["<lora:>", "<lora::1>", "<lora:a:b>", "<lora:a:>", "<lora:a:1:2>", "<hypernet:a:1>"]
)
def test_a_tag_of_another_form_is_refused(tag: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"prompt: .*<"):
        read_prompt(f"a castle {tag}")


@pytest.mark.parametrize(("sampler", "scheduler"), EQUIVALENTS.items())
def test_every_sampler_is_accepted_whole_and_as_a_pair(sampler: str, scheduler: str) -> None:
    assert scheduler_of_pair(sampler, None) == scheduler
    assert scheduler_of_pair(*pair_of_scheduler(scheduler)) == scheduler


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler"),
    [
        (None, None, None),
        (None, "automatic", None),
        ("euler A", "", "euler_a"),
        ("DPM++ SDE", "karras", "dpmpp_sde_karras"),
        ("DPM++ SDE Karras", "KARRAS", "dpmpp_sde_karras"),
        ("DPM++ SDE", "Uniform", "dpmpp_sde"),
        ("dpmpp_2m", "Karras", "dpmpp_2m_karras"),
        # A1111 has one schedule for these.
        ("DDIM", "Karras", "ddim"),
        # For ``Limits`` to refuse, with the nearest.
        ("DPM2", "Karras", "DPM2 Karras"),
    ],
)
def test_a_sampler_and_a_schedule_are_one_scheduler(
    sampler: str | None, schedule: str | None, scheduler: str | None
) -> None:
    assert scheduler_of_pair(sampler, schedule) == scheduler


@pytest.mark.parametrize(
    ("forwarded_for", "trusted", "address"),
    [
        ([], 0, "10.0.0.7"),
        ([], 1, "10.0.0.7"),
        (["203.0.113.5"], 0, None),
        (["203.0.113.5"], 1, "203.0.113.5"),
        (["192.0.2.1, 203.0.113.5"], 1, "203.0.113.5"),
        (["203.0.113.5"], 2, None),
        (["unknown"], 1, None),
        (["2001:db8::1"], 1, "2001:db8::1"),
    ],
)
def test_an_exact_address_is_never_that_of_a_proxy(
    forwarded_for: list[str], trusted: int, address: str | None
) -> None:
    assert exact_address("10.0.0.7", forwarded_for, trusted) == address


def caller_with(callers: Callers, key: str = "", host: str = "10.0.0.7") -> str:
    def name() -> str:
        enter_request(RequestContext("id", caller=key))
        return callers.name_of(Request({"type": "http", "client": (host, 1), "headers": []}))

    # Or the request would be that of later tests.
    return copy_context().run(name)


def test_a_key_is_a_caller_whatever_its_address() -> None:
    callers = Callers(0)

    alice, same = (caller_with(callers, "alice", host) for host in ("10.0.0.7", "10.0.0.8"))
    bob, nameless = caller_with(callers, "bob"), caller_with(callers)
    # A key may have the name of an address.
    tricky = caller_with(callers, "10.0.0.7")

    assert alice == same
    assert len({alice, bob, nameless, tricky}) == 4


def test_interrupt_ends_only_the_calls_of_its_caller() -> None:
    async def story() -> list[Any]:
        callers, done = Callers(0), asyncio.Event()

        async def answer(caller: str) -> str:
            with callers.call(caller) as call:
                await call.run(done.wait())
            return caller

        answers = [asyncio.create_task(answer(caller)) for caller in ("a", "a", "b", "")]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        callers.interrupt("a")
        with pytest.raises(NotAuthorizedError):
            callers.interrupt("")
        done.set()
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert not any(callers.calls(caller) for caller in ("a", "b", ""))
        return results

    first, second, *others = asyncio.run(story())

    assert isinstance(first, InterruptedCallError)
    assert isinstance(second, InterruptedCallError)
    assert others == ["b", ""]


def test_a_caller_that_leaves_is_not_interrupted() -> None:
    async def story() -> None:
        callers = Callers(0)

        async def answer() -> None:
            with callers.call("a") as call:
                await call.run(asyncio.sleep(60))

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        callers.interrupt("a")
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering

    asyncio.run(story())


def test_choices_are_kept_for_each_caller_and_bounded() -> None:
    callers = Callers(0)

    for number in range(1025):
        callers.choose(f"caller {number}", f"model {number}")

    assert callers.chosen("caller 0") == ""
    assert callers.chosen("caller 1") == "model 1"
    assert callers.chosen("caller 1024") == "model 1024"
    with pytest.raises(NotAuthorizedError):
        callers.choose("", "any")


def blocked(*is_blocked: bool) -> tuple[Call, list[GenerationResult]]:
    request = GenerationRequest("a star", "", 1, 8, 8, 1, 1.0, "euler")
    output_format: OutputFormat = "png"
    verdict = SafetyVerdict("safety_checker", "block")
    results = [
        GenerationResult(request, None, 1.0, safety=(verdict,))
        if one
        else GenerationResult(request, Image.new("RGB", (8, 8)), 1.0)
        for one in is_blocked
    ]
    return Call(tuple(Picture(request, output_format) for _ in results), True), results


@pytest.mark.parametrize(("is_blocked", "count"), [((True, False), 1), ((False, True, False), 2)])
def test_a_blocked_picture_is_left_out(is_blocked: tuple[bool, ...], count: int) -> None:
    call, results = blocked(*is_blocked)
    request = A1111Request({}, {}, "a star", 1, {}, MaskOptions(False, (0, 0)))
    encoder = A1111Form(request).encoder(
        call, results, model_name="model", revision="1", embed_metadata=False
    )
    for index in range(len(results)):
        encoder.add(index)

    answer = json.loads(encoder.response().body)

    assert len(answer["images"]) == len(json.loads(answer["info"])["infotexts"]) == count


def test_a_call_with_only_blocked_pictures_is_refused() -> None:
    call, results = blocked(True)
    request = A1111Request({}, {}, "a star", 1, {}, MaskOptions(False, (0, 0)))
    encoder = A1111Form(request).encoder(
        call, results, model_name="model", revision="1", embed_metadata=False
    )
    encoder.add(0)

    with pytest.raises(RefusedBySafetyError, match="picture: refused by safety_checker"):
        encoder.response()
