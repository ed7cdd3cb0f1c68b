"""Broken, odd and hostile requests against a real server: an answer for each, and never a 500.

``python -m bench.soak --requests 10000`` sends more of the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from bench.soak import Load, problems_of_the_log, usage
from bench.wild_formats import WILD_FORMATS
from bench.wild_requests import wild_requests
from predictor.wire_formats import A1111, ROUTED
from tests.serving import MODEL_NAME, Server

REQUESTS = 400
ELSEWHERE = {"404", "405"}


@pytest.fixture(scope="module")
def own_server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose log holds only these requests."""
    log = tmp_path_factory.mktemp("wild") / "log"
    with Server.started(
        demo_model, log, max_side=64, max_images_per_request=2, a1111_api=True
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def answers(own_server: Server) -> tuple[Counter[str], list[str]]:
    """What the requests got, by kind, and the problems among them."""
    counts: Counter[str] = Counter()
    problems: list[str] = []

    async def send() -> None:
        async with httpx.AsyncClient(base_url=own_server.url, timeout=120) as client:
            load = Load(client, own_server.url, wild_requests(7), counts, problems)
            await load.run(seconds=600, most=REQUESTS)

    asyncio.run(send())
    return counts, problems


def test_no_request_gets_a_500_or_no_answer(answers: tuple[Counter[str], list[str]]) -> None:
    counts, problems = answers

    assert not problems
    assert counts.total() == REQUESTS
    kinds = {kind.split(":")[0].split()[0] for kind in counts}
    assert {"valid", "wrong", "broken", "odd", "hostile", "raw", "gone"} <= kinds


def test_every_wire_format_serves_valid_requests_and_refuses_others(
    answers: tuple[Counter[str], list[str]],
) -> None:
    counts, _ = answers

    for name in [one.name for one in WILD_FORMATS]:
        assert counts[f"valid {name}: 200"] > 0
        assert counts[f"wrong {name}: 400"] + counts[f"broken {name}: 400"] > 0


def test_no_wire_format_is_left_out() -> None:
    reached = {one.path.replace(MODEL_NAME, "{model_name}") for one in WILD_FORMATS}

    assert all(reached & {*one.paths} for one in (*ROUTED, *A1111))


def test_the_server_still_draws_afterwards(
    own_server: Server, answers: tuple[Counter[str], list[str]]
) -> None:
    response = httpx.post(
        own_server.url + "/v1/models/stable-diffusion:predict",
        json={"prompt": "a red circle", "num_inference_steps": 2},
        timeout=60,
    )

    assert response.status_code == 200
    assert own_server.process.poll() is None


def test_the_log_has_no_prompt_and_no_trace(
    own_server: Server, answers: tuple[Counter[str], list[str]]
) -> None:
    assert not problems_of_the_log(own_server.log.read_text("utf-8"))


def test_the_usage_of_a_process_counts_its_threads(own_server: Server) -> None:
    found = usage(own_server.process.pid)

    assert found.rss_mib > 100
    assert found.threads > 1
    assert found.descriptors > 3


def test_requests_from_the_openapi_document_get_no_500(own_server: Server) -> None:
    text = httpx.get(own_server.url + "/openapi.json").text
    # Few steps are enough.
    few = text.replace('"maximum":150', '"maximum":2')
    assert few != text
    schema = schemathesis.openapi.from_dict(json.loads(few))
    schema.config.update(base_url=own_server.url)
    operations = [result.ok() for result in schema.get_all_operations()]
    labels = {one.label for one in operations}
    assert {"POST /v1/models/{model_name}:predict", "POST /sdapi/v1/img2img"} <= labels

    for operation in operations:
        # A wrong path may be that of another operation, or of none.
        for mode, others in (
            (GenerationMode.POSITIVE, set()),
            (GenerationMode.NEGATIVE, ELSEWHERE),
        ):
            with contextlib.suppress(Unsatisfiable):  # nothing to send is wrong
                _send_examples(operation.as_strategy(generation_mode=mode), others)


def _send_examples(cases: SearchStrategy[schemathesis.Case], others: set[str]) -> None:
    @settings(
        max_examples=6,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: schemathesis.Case) -> None:
        response = case.call(timeout=60)
        # 501: `unload` of the only model.
        assert response.status_code < 500 or response.status_code == 501, case.as_curl_command()
        documented = {*case.operation.definition.raw["responses"]}
        assert str(response.status_code) in documented | others, case.as_curl_command()

    send()
