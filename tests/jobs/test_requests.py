"""What a submission means: seeds, the envelope and preferences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.requests import draw_seeds, new_job, wait_seconds
from jobs.settings import Settings

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


@pytest.mark.parametrize("seed", ["5", 1.5, True, [1], {}])
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
