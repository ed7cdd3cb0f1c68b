"""A server of a volume with several published models and memory for one at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import httpx
import pytest
from playwright.sync_api import Browser, expect

from demo.run import publish
from modelstore import ModelStore
from tests.browser import Visit, browser, needs_chromium
from tests.predictor.metric_samples import samples
from tests.predictor.test_health import with_weights_of_another_shape
from tests.predictor.volumes import publish_folder, save_wide_pipeline
from tests.serving import SHORT, Server

__all__ = ["browser"]

# The demo model takes 0.011 GiB in float32.
ROOM_FOR_ONE = {"memory_budget_gib": 0.015, "max_lanes": 2}
# As in the image: glibc keeps up to 64 MiB of free memory in each arena but the first.
ARENAS = {"MALLOC_ARENA_MAX": "2"}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("first", "second", "third"):
        publish(name, root)
    # An unfinished download is not a model.
    ModelStore(root).staging("fourth").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def many(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("many") / "log"
    with Server.started(volume, log, a1111_api=True, **ROOM_FOR_ONE) as server:
        server.wait_for("/v2/health/ready")
        yield server


@pytest.fixture
def caller(many: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=many.url, timeout=120) as client:
        yield client


def predict(client: httpx.Client, name: str, **headers: str) -> httpx.Response:
    return client.post(f"/v1/models/{name}:predict", json=SHORT, headers=headers)


def index(client: httpx.Client, **body: Any) -> dict[str, dict[str, str]]:
    answer = client.post("/v2/repository/index", json=body)
    assert answer.status_code == 200, answer.text
    return {entry["name"]: entry for entry in answer.json()}


def states(client: httpx.Client) -> dict[str, str]:
    return {name: entry["state"] for name, entry in index(client).items()}


def metric(client: httpx.Client, name: str) -> dict[str, float]:
    """Return the samples of that name by model."""
    found = samples(client.get("/metrics").text, name)
    return {one.labels["model_name"]: one.value for one in found}


def test_the_pod_is_ready_and_no_model_is_loaded(caller: httpx.Client) -> None:
    names = ["first", "second", "third"]

    listed = caller.get("/v1/models").json()
    assert listed["models"] == names
    assert [model["id"] for model in listed["data"]] == names
    assert caller.get("/v2/models").json() == {"models": names}
    assert states(caller) == dict.fromkeys(names, "UNAVAILABLE")
    for path in ("/v1/models/first", "/v2/models/first/ready"):
        assert caller.get(path).status_code == 503
    assert caller.get("/v2/health/ready").status_code == 200


def test_a_request_loads_its_model_and_unloads_another(caller: httpx.Client) -> None:
    first = predict(caller, "first")
    while_first = states(caller)
    second = predict(caller, "second")
    entry = index(caller)["second"]

    assert (first.status_code, first.headers["x-model-name"]) == (200, "first")
    assert (second.status_code, second.headers["x-model-name"]) == (200, "second")
    assert (while_first["first"], while_first["second"]) == ("READY", "UNAVAILABLE")
    assert entry["version"] == second.headers["x-model-revision"]
    assert index(caller, ready=True) == {"second": entry}
    assert caller.get("/v1/models/second").json() == {"name": "second", "ready": True}
    assert caller.get("/v2/models/first/ready").status_code == 503


def test_a_protocol_that_names_the_model_in_the_body_loads_it(caller: httpx.Client) -> None:
    route, fields = "/openai/v1/images/generations", {"prompt": "a red star", "steps": 1}

    second = caller.post(route, json=fields | {"model": "second"})
    # Read in another process.
    long = fields | {"model": "third", "controlnet": {"name": "x", "image": "A" * 20_000}}
    third = caller.post(route, json=long)
    missing = caller.post(route, json=fields)
    unknown = caller.post(route, json=fields | {"model": "fourth"})

    assert (second.status_code, second.headers["x-model-name"]) == (200, "second")
    assert third.json()["error"]["param"] == "controlnet.name"
    assert states(caller)["third"] == "READY"
    assert missing.status_code == 400
    assert missing.json()["error"]["message"] == (
        "model: is missing; the server has first, second, third"
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_caller_of_a1111_chooses_its_model(caller: httpx.Client) -> None:
    route, fields = "/sdapi/v1/txt2img", {"prompt": "a red star", "steps": 1}
    options = "/sdapi/v1/options"

    unchosen, missing = caller.get(options).json(), caller.post(route, json=fields)
    hidden = caller.post(
        options, json={"sd_model_checkpoint": "second"}, headers={"x-forwarded-for": "203.0.113.5"}
    )
    caller.post(options, json={"sd_model_checkpoint": "second"}).raise_for_status()
    second = caller.post(route, json=fields)
    override = {"override_settings": {"sd_model_checkpoint": "third"}}
    third = caller.post(route, json=fields | override)
    chosen, again = caller.get(options).json(), caller.post(route, json=fields)

    assert unchosen["sd_model_checkpoint"] is None
    assert (missing.status_code, missing.json()["detail"]) == (
        400,
        "sd_model_checkpoint: is missing; the server has first, second, third",
    )
    assert (hidden.status_code, hidden.json()["error"]) == (403, "Forbidden")
    assert [one.headers["x-model-name"] for one in (second, third, again)] == [
        *("second", "third", "second")
    ]
    assert chosen["sd_model_checkpoint"] == "second"


@needs_chromium
def test_the_page_loads_a_model_that_is_not_in_memory(
    browser: Browser, many: Server, caller: httpx.Client
) -> None:
    assert predict(caller, "first").status_code == 200
    with Visit.started(browser, many.url, {"prompt": "a red star", "model": "third"}) as visit:
        expect(visit.page.get_by_text("not loaded; a request loads it")).to_be_visible()
        expect(visit.control("Model")).to_have_value("third")
        expect(visit.control("Width")).to_have_value("")
        visit.page.evaluate(
            "() => { window.shown = []; const status = document.getElementById('status');"
            "const note = () => window.shown.push(status.textContent);"
            "new MutationObserver(note).observe(status, { childList: true }); }"
        )
        visit.draw(1)
        visit.wait_until_described()
        shown = visit.page.evaluate("() => window.shown")

        waiting = re.compile(r"The (model|server) is .+ \(\d+ s\)…")
        assert any(waiting.fullmatch(text) for text in shown), shown

        expect(visit.control("Width")).to_have_value("64")
        expect(visit.control("Scheduler")).to_have_value("unipc")


def test_many_requests_for_three_models_stay_within_the_budget(
    caller: httpx.Client,
) -> None:
    names = ["first", "second", "third"] * 4
    budget = ROOM_FOR_ONE["memory_budget_gib"] * 2**30
    taken = []
    with ThreadPoolExecutor(len(names)) as callers:
        asked = [callers.submit(predict, caller, name) for name in names]
        while not all(one.done() for one in asked):
            taken.append(sum(metric(caller, "diffusion_model_bytes").values()))
        answers = [one.result() for one in asked]

    assert [answer.status_code for answer in answers] == [200] * len(names)
    assert [answer.headers["x-model-name"] for answer in answers] == names
    assert 0 < max(taken) <= budget


def test_a_stream_of_events_loads_its_model_too(caller: httpx.Client) -> None:
    caller.post("/v2/repository/models/third/unload")

    answer = predict(caller, "third", accept="text/event-stream")

    assert answer.text.count("event: result") == 1


def test_models_are_loaded_and_unloaded_over_http(caller: httpx.Client) -> None:
    loads = metric(caller, "diffusion_model_loads_total")
    loaded = caller.post("/v2/repository/models/first/load")
    after_loading = states(caller)["first"], metric(caller, "diffusion_model_bytes")["first"]
    unloaded = caller.post("/v2/repository/models/first/unload")
    after_unloading = states(caller)["first"], metric(caller, "diffusion_model_bytes")["first"]

    assert loads.keys() == {"first", "second", "third"}
    assert (loaded.status_code, loaded.json()) == (200, {"name": "first", "load": True})
    assert (unloaded.status_code, unloaded.json()) == (200, {"name": "first", "unload": True})
    assert after_loading[0] == "READY"
    assert 10e6 < after_loading[1] < 15e6
    assert after_unloading == ("UNAVAILABLE", 0)
    assert metric(caller, "diffusion_model_unloads_total")["first"] >= 1
    assert "first" not in metric(caller, "diffusion_lanes")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_loading_an_unknown_model_is_an_error(caller: httpx.Client, verb: str) -> None:
    answer = caller.post(f"/v2/repository/models/fourth/{verb}")

    assert answer.status_code == 404
    assert predict(caller, "fourth").status_code == 404
    assert "fourth" not in metric(caller, "diffusion_requests_total")


@pytest.mark.parametrize("body", ["[]", '{"ready": "yes"}', "nonsense"])
def test_an_invalid_index_request_is_rejected(caller: httpx.Client, body: str) -> None:
    assert caller.post("/v2/repository/index", content=body).status_code == 400


def test_models_come_and_go_with_the_volume(caller: httpx.Client, volume: Path) -> None:
    publish("later", volume)
    new = predict(caller, "later")
    (volume / "later").unlink()
    listed = caller.get("/v1/models").json()["models"]
    gone = predict(caller, "later")

    assert new.status_code == 200
    assert "later" not in listed
    assert gone.status_code == 404


def test_a_broken_model_does_not_affect_the_others(
    caller: httpx.Client, volume: Path, many: Server
) -> None:
    shutil.copytree((volume / "first").resolve(), volume / "broken")
    with_weights_of_another_shape(volume / "broken")
    try:
        failed = predict(caller, "broken")
        entry = index(caller)["broken"]
        other = predict(caller, "second")
        failures = metric(caller, "diffusion_model_loads_total")
    finally:
        shutil.rmtree(volume / "broken")

    message = "model 'broken' could not be loaded; the log has the cause"
    assert (failed.status_code, failed.json()) == (503, {"error": message})
    assert 0 < int(failed.headers["retry-after"]) <= 5
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", message)
    assert other.status_code == 200
    assert failures["broken"] == 1
    assert re.search("model broken does not load: .*(shape|size mismatch)", many.log.read_text())


def test_a_model_above_the_budget_is_rejected_with_both_sizes(
    caller: httpx.Client, volume: Path, tmp_path: Path
) -> None:
    save_wide_pipeline(tmp_path / "wide", 64)
    publish_folder(tmp_path / "wide", "wide", volume)
    try:
        refused = predict(caller, "wide")
    finally:
        (volume / "wide").unlink()

    assert refused.status_code == 503
    assert "'wide' takes 0.04 GiB and memory_budget_gib is 0.0" in refused.json()["error"]


def test_a_switched_revision_is_served_after_the_next_load(
    caller: httpx.Client, volume: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree((volume / "second").resolve(), other)
    (other / ".modelstore.json").unlink()
    (other / "generation_defaults.json").write_text(json.dumps({"num_inference_steps": 7}))
    before = predict(caller, "second").headers["x-model-revision"]
    publish_folder(other, "second", volume)
    meanwhile = predict(caller, "second").headers["x-model-revision"]

    assert caller.post("/v2/repository/models/second/unload").status_code == 200
    after = predict(caller, "second").headers["x-model-revision"]

    assert before == meanwhile != after
    assert after == index(caller)["second"]["version"]


@pytest.mark.parametrize(
    ("folder", "preload", "message"),
    [
        ("", "missing", "preload: 'missing' is not on the volume; published: first, second, third"),
        ("first", "first", "preload=first, but model_dir is a single model's folder"),
    ],
)
def test_a_preload_that_contradicts_the_folder_ends_the_process(
    volume: Path, tmp_path: Path, folder: str, preload: str, message: str
) -> None:
    with Server.started(volume / folder, tmp_path / "log", preload=preload) as server:
        assert server.process.wait(timeout=60) == 1

    assert message in server.log.read_text().splitlines()[-1]


class Wide(NamedTuple):
    """A server that preloads a model of ``size`` bytes; ``early`` is its first readiness."""

    server: Server
    size: int
    early: int


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wide]:
    root = tmp_path_factory.mktemp("wide")
    size = save_wide_pipeline(root / "wide", 208)
    (root / "volume").mkdir()
    for name in ("one", "two"):
        publish_folder(root / "wide", name, root / "volume")
    settings = {"memory_budget_gib": 10, "max_lanes": 2, "preload": "one, two"}
    with (
        mock.patch.dict(os.environ, ARENAS),
        Server.started(root / "volume", root / "log", **settings) as server,
    ):
        server.wait_for("/")
        early = httpx.get(server.url + "/v2/health/ready").status_code
        server.wait_for("/v2/health/ready")
        yield Wide(server, size, early)


def test_preloaded_models_are_loaded_when_the_pod_is_ready(wide: Wide) -> None:
    with httpx.Client(base_url=wide.server.url) as client:
        found = states(client)

    assert wide.early == 503
    assert found == {"one": "READY", "two": "READY"}


def test_the_memory_of_an_unloaded_model_returns_to_the_operating_system(wide: Wide) -> None:
    loaded, unloaded = [], []
    with httpx.Client(base_url=wide.server.url, timeout=120) as client:
        client.post("/v2/repository/models/one/unload").raise_for_status()
        for name in ("two", "one", "two", "one"):
            assert predict(client, name).status_code == 200
            loaded.append(resident_bytes(wide.server))
            client.post(f"/v2/repository/models/{name}/unload").raise_for_status()
            unloaded.append(resident_bytes(wide.server))
            details = f"{loaded} {unloaded} {states(client)} {memory_map(wide.server)}"
            assert unloaded[-1] < loaded[-1] - 0.8 * wide.size, details

    assert wide.size > 400e6
    assert max(unloaded) - unloaded[0] < 0.25 * wide.size


def memory_map(server: Server) -> str:
    """How much of the memory is anonymous, and how much belongs to files."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return ", ".join(re.findall(r"Rss\w+:\s+\d+ kB", status))


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
