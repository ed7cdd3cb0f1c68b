"""What a submission means: seeds, the envelope and preferences."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.errors import InvalidRequestError
from jobs.job import NewJob
from jobs.requests import draw_seeds, new_job, wait_seconds
from jobs.settings import Settings
from tests.jobs.receiver import SECRET

RANDOM = object()


@pytest.mark.parametrize(
    ("document", "path", "seed"),
    [
        ({"prompt": "x"}, ["seed"], RANDOM),
        ({"prompt": "x", "seed": -1}, ["seed"], RANDOM),
        ({"prompt": "x", "seed": None}, ["seed"], RANDOM),
        ({"prompt": "x", "seed": 0}, ["seed"], 0),
        ({"prompt": "x", "parameters": {}}, ["seed"], RANDOM),
        ({"prompt": "x", "parameters": None}, ["seed"], RANDOM),
        ({"prompt": "x", "parameters": {"seed": -1}}, ["parameters", "seed"], RANDOM),
        ({"prompt": "x", "parameters": {"seed": 5}}, ["parameters", "seed"], 5),
        ({"prompt": "x", "seed": 5, "parameters": {"seed": None}}, ["seed"], 5),
    ],
)
def test_a_seed_is_drawn_where_the_caller_would_write_it(
    document: dict[str, Any], path: list[str], seed: object
) -> None:
    drawn = draw_seeds(document)
    value: Any = document
    for name in path:
        value = value[name]

    assert drawn == value
    assert isinstance(value, int)
    assert value >= 0
    assert seed is RANDOM or value == seed
    assert json.dumps(document).count(str(value)) >= 1
    places = [document, document.get("parameters") or {}]
    assert len([1 for place in places if place.get("seed") is not None]) == 1


def test_instances_without_a_seed_get_one_each() -> None:
    document: dict[str, Any] = {"instances": [{"prompt": "x"}, {"prompt": "x"}, {"seed": 3}]}
    first = draw_seeds(document)
    seeds = [instance["seed"] for instance in document["instances"]]

    assert seeds[0] == first
    assert seeds[2] == 3
    assert len(set(seeds)) == 3


def test_a_seed_for_all_instances_is_kept() -> None:
    document: dict[str, Any] = {"instances": [{"prompt": "x"}], "parameters": {"seed": 9}}

    assert draw_seeds(document) == 9
    assert document == {"instances": [{"prompt": "x"}], "parameters": {"seed": 9}}


@pytest.mark.parametrize("seed", ["5", 1.5, True, [1], {}, -5, 2**53, 10**30])
def test_an_invalid_seed_is_left_to_the_predictor(seed: object) -> None:
    document: dict[str, Any] = {"prompt": "x", "seed": seed}

    assert draw_seeds(document) is None
    assert document["seed"] == seed


def test_the_predictor_gets_the_body_without_the_envelope() -> None:
    sent = {"prompt": "x", "seed": 1, "model": None, "priority": 9.0, "expires_in": 60, "width": 8}
    job = new_job(b"\xef\xbb\xbf" + json.dumps(sent).encode(), None, Settings())

    assert json.loads(job.body) == {"prompt": "x", "seed": 1, "width": 8}
    assert (job.model, job.priority, job.expires_in) == ("stable-diffusion", 9, 60)
    assert (job.seed, job.idempotency_key) == (1, "")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("priorty", "priority"),
        ("expires", "expires_in"),
        ("web_hook", "webhook"),
        ("mode", "model"),
    ],
)
def test_a_misspelt_field_of_the_envelope_is_refused_at_once(name: str, meant: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{name}: .* did you mean {meant}\\?$"):
        new_job(json.dumps({"prompt": "x", name: 1}).encode(), None, Settings())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"1e999", "the body contains a number that is too large"),
        (b"[-1e999]", "the body contains a number that is too large"),
        (b"NaN", "the body is not valid JSON"),
        (b"Infinity", "the body is not valid JSON"),
        (rb'"\ud800"', "the body is not valid JSON"),
        (rb'{"\uDFFF": 1}', "the body is not valid JSON"),
        (b"[" * 990 + b"]" * 990, "the body is not valid JSON"),
    ],
)
def test_values_that_no_response_can_contain_are_refused(value: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        new_job(b'{"prompt": "x", "more": ' + value + b"}", None, Settings())


def test_a_pair_of_surrogates_is_one_character() -> None:
    job = new_job(rb'{"prompt": "\ud83c\udf1f"}', None, Settings())

    assert json.loads(job.body)["prompt"] == "\N{GLOWING STAR}"


def webhook_job(url: object, **settings: Any) -> NewJob:
    flags = Settings(webhook_secrets=SecretStr(SECRET), **settings)
    return new_job(json.dumps({"prompt": "x", "webhook": url}).encode(), None, flags)


def test_the_webhook_is_taken_out_of_the_body() -> None:
    job = webhook_job("https://Example.COM:443/hook?order=17")

    assert "webhook" not in json.loads(job.body)
    assert job.webhook is not None
    assert job.webhook.url == "https://example.com/hook?order=17"
    assert job.webhook.lane.startswith("example.com/")
    assert webhook_job(None).webhook is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (17, "must be a string"),
        ("", "must have 1 to 2048 characters"),
        ("https://example.com/" + "x" * 2048, "must have 1 to 2048 characters"),
        ("http://example.com/", "must begin with https:// and a host"),
        ("ftp://example.com/", "must begin with https:// and a host"),
        ("example.com/hook", "must begin with https:// and a host"),
        ("https:///hook", "must begin with https:// and a host"),
        ("https://example.com:port/", "is not a valid URL"),
        ("https://example.com:0/", "is not a valid URL"),
        ("https://example.com:65536/", "is not a valid URL"),
        ("https://example.com:443443/", "is not a valid URL"),
        ("https://xn--a/", "is not a valid URL"),
        ("https://exa[mple.com/", "is not a valid URL"),
        ("https://%31%32%37.0.0.1/", "is not a valid URL"),
        ("https://example.com%0d%0ahost:x/", "is not a valid URL"),
        ("https://[fe80::1%25eth0]/", "is not a valid URL"),
        ("https://[fe80::1%25eth0]\N{IDEOGRAPHIC FULL STOP}/", "is not a valid URL"),
        ("https://user:password@example.com/", "must not contain a user or a password"),
        ("https://user@example.com/", "must not contain a user or a password"),
        ("https://127.0.0.1/", "the address is not public, nor in webhook_networks"),
        ("https://[::1]:8443/", "the address is not public"),
        ("https://[::ffff:10.0.0.1]/", "the address is not public"),
        ("https://169.254.169.254/latest/meta-data/", "the address is not public"),
    ],
)
def test_a_webhook_that_is_refused(url: object, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        webhook_job(url)

    assert str(refused.value).startswith(f"webhook: {reason}")
    assert "password@" not in str(refused.value)


def test_settings_allow_more_webhooks() -> None:
    job = webhook_job("http://10.1.2.3/", webhook_networks="10.0.0.0/8", webhook_allow_http=True)

    assert job.webhook is not None
    assert job.webhook.url == "http://10.1.2.3/"
    with pytest.raises(InvalidRequestError, match="must begin with https:// or http:// and a host"):
        webhook_job("ftp://10.1.2.3/", webhook_allow_http=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=5", 5),
        ('WAIT = "5"', 5),
        ("wait=500", 60),
        ("wait=-1", 0),
        ("wait", 0),
        ("wait=1.5", 0),
        ("respond-async", 0),
        ("", 0),
    ],
)
def test_the_preference_for_a_wait(header: str, seconds: float) -> None:
    assert wait_seconds({"prefer": header}, most=60) == seconds
    assert wait_seconds({}, most=60) == 0
