"""The safety layers of a running server: what each response reports, and what none does."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from PIL import Image

from demo.judge import look_at
from demo.run import MODEL
from demo.shapes import Scene
from tests.downloader.volume import download
from tests.predictor.metric_samples import samples
from tests.predictor.random_safety import add_checker, save_classifier
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

SCENE = Scene("red", "star", "white")
ASKED = {"prompt": SCENE.prompt, "parameters": {"seed": 5}}
# Words that the text encoder knows, so that the model could draw them.
BLOCKED = {"prompt": "a Blue Circle on a white background", "parameters": {"seed": 5}}
AS_JSON = {"accept": "application/json"}


class Running(NamedTuple):
    server: Server
    client: httpx.Client
    block_list: Path

    def count(self, layer: str, action: str) -> float:
        """Return the value of the metric, which must exist from the start."""
        wanted = {"model_name": MODEL_NAME, "layer": layer, "action": action}
        found = samples(self.client.get("/metrics").text, "diffusion_safety_total")
        (sample,) = [sample for sample in found if sample.labels == wanted]
        return float(sample.value)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Two servers, started concurrently: one flags pictures and one blocks them."""
    folder = tmp_path_factory.mktemp("safety")
    with contextlib.ExitStack() as stack:
        started: dict[str, Running] = {}
        for name, settings in {
            "flag": {"safety_classifier": "flag"},
            "block": {"safety_classifier": "off", "block_list": "flag"},
        }.items():
            model = publish(folder / name, checker_fires=name == "block")
            block_list = folder / f"{name}.txt"
            block_list.write_text("# none of these\nblue circle\n", "utf-8")
            server = stack.enter_context(
                Server.started(
                    model,
                    folder / f"{name}.log",
                    safety_classifier_labels="lewd,gore",
                    block_list_file=block_list,
                    **settings,
                )
            )
            client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
            started[name] = Running(server, client, block_list)
        for running in started.values():
            running.server.wait_until_ready()
        yield started


def publish(folder: Path, *, checker_fires: bool) -> Path:
    """The demo model with a checker and a classifier, published by the downloader."""
    source, classifier = folder / "source", folder / "classifier"
    shutil.copytree(MODEL, source)
    add_checker(source, fires=checker_fires)
    save_classifier(classifier, {"gore": 9.0})
    models = [
        {
            "name": MODEL_NAME,
            "source": source.as_uri(),
            "safety_classifier": classifier.as_uri(),
        }
    ]
    # JSON is YAML.
    (folder / "models.yaml").write_text(json.dumps({"models": models}), "utf-8")
    (folder / "volume").mkdir()
    download("", folder / "volume", name="", spec=folder / "models.yaml")
    return folder / "volume" / MODEL_NAME


@pytest.fixture
def flag(servers: dict[str, Running]) -> Running:
    return servers["flag"]


@pytest.fixture
def block(servers: dict[str, Running]) -> Running:
    return servers["block"]


def predictions(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def image_in(prediction: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(prediction["image"]["b64"])))


def verdict(layer: str, action: str) -> dict[str, str]:
    return {"layer": layer, "action": action}


# Pictures


def test_a_flagged_picture_is_shown_and_marked(flag: Running) -> None:
    bare = flag.client.post(PREDICT, json=ASKED)
    (prediction,) = predictions(flag.client.post(PREDICT, json=ASKED, headers=AS_JSON))

    assert look_at(picture_of(bare)).shows(SCENE)
    assert bare.headers["x-safety"] == "safety_classifier=flag"
    assert prediction["safety"] == [verdict("safety_classifier", "flag")]
    assert look_at(image_in(prediction)).shows(SCENE)


def test_a_blocked_picture_is_not_shown(block: Running) -> None:
    bare = block.client.post(PREDICT, json=ASKED)
    (prediction,) = predictions(block.client.post(PREDICT, json=ASKED, headers=AS_JSON))

    assert bare.status_code == 400
    assert bare.json() == {"error": "picture: refused by safety_checker"}
    assert prediction["image"] is None
    assert prediction["safety"] == [verdict("safety_checker", "block")]
    assert prediction["seed"] == 5


def test_the_last_event_of_a_stream_says_the_same(block: Running, flag: Running) -> None:
    for running, expected in (
        (block, verdict("safety_checker", "block")),
        (flag, verdict("safety_classifier", "flag")),
    ):
        response = running.client.post(PREDICT, json=ASKED, headers={"accept": "text/event-stream"})

        name, data = response.text.strip().split("\n\n")[-1].split("\n")
        (prediction,) = json.loads(data.removeprefix("data: "))["predictions"]
        assert name == "event: result"
        assert prediction["safety"] == [expected]
        assert (prediction["image"] is None) == (running is block)


# Prompts


def test_a_server_that_checks_pictures_sends_no_previews(servers: dict[str, Running]) -> None:
    """Neither before a picture that is blocked, nor before one that is only flagged."""
    for running in servers.values():
        response = running.client.post(
            PREDICT, json={**ASKED, "previews": 8}, headers={"accept": "text/event-stream"}
        )
        with openai.OpenAI(base_url=f"{running.server.url}/v1", api_key="unused") as client:
            events = client.images.generate(prompt=SCENE.prompt, stream=True, partial_images=3)
            with contextlib.suppress(openai.APIError):  # the end of a stream that is blocked
                assert {one.type for one in events} <= {"image_generation.completed"}

        assert "event: result\n" in response.text
        assert "event: preview\n" not in response.text


def test_a_blocked_prompt_is_rejected_before_the_engine(flag: Running) -> None:
    judged = flag.count("safety_classifier", "flag")
    refused = flag.count("block_list", "block")

    response = flag.client.post(PREDICT, json=BLOCKED)

    assert response.status_code == 400
    assert response.json() == {"error": "prompt: refused by block_list"}
    assert flag.count("block_list", "block") == refused + 1
    assert flag.count("safety_classifier", "flag") == judged


@pytest.mark.parametrize("is_stream", [False, True])
def test_openais_client_gets_a_code_for_a_blocked_prompt(flag: Running, is_stream: bool) -> None:
    url = f"{flag.server.url}/openai/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        made: Any = client.images.generate(prompt=SCENE.prompt, stream=False, n=2)
        with pytest.raises(openai.APIError) as refused:
            # Immediately, or as the last event of the stream.
            list(client.images.generate(prompt=BLOCKED["prompt"], stream=is_stream))

    assert refused.value.code == "moderation_blocked"
    assert "prompt: refused by block_list" in refused.value.message
    assert len(made.data) == 2
    assert made.data[0].safety == [verdict("safety_classifier", "flag")]


def test_other_protocols_do_not_show_a_blocked_picture(flag: Running) -> None:
    prompts = [SCENE.prompt, BLOCKED["prompt"]]
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [2], "data": prompts}

    rows = flag.client.post(f"/v2/models/{MODEL_NAME}/infer", json={"inputs": [tensor]}).json()
    link = flag.client.get("/imagine", params={"prompt": prompts[1]})

    shown, blocked = rows["outputs"][0]["data"]
    assert picture_in_base64(shown)
    assert blocked == ""
    assert link.status_code == 400
    assert link.json() == {"error": "prompt: refused by block_list"}


def picture_in_base64(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_other_pictures_of_a_call_are_not_lost(flag: Running) -> None:
    response = flag.client.post(PREDICT, json={"instances": [ASKED, BLOCKED, ASKED]})

    first, refused, last = predictions(response)
    assert refused["image"] is None
    assert refused["safety"] == [verdict("block_list", "block")]
    assert look_at(image_in(first)).shows(SCENE)
    assert look_at(image_in(last)).shows(SCENE)
    assert response.headers["x-safety"] == "safety_classifier=flag, block_list=block"
    assert float(response.headers["x-first-step-seconds"]) > 0


def test_every_layer_that_fired_is_reported(block: Running) -> None:
    response = block.client.post(PREDICT, json=BLOCKED, headers=AS_JSON)

    (prediction,) = predictions(response)
    assert prediction["image"] is None
    assert prediction["safety"] == [
        verdict("block_list", "flag"),
        verdict("safety_checker", "block"),
    ]
    assert response.headers["x-safety"] == "block_list=flag, safety_checker=block"
    # The layer that blocks, not the one that only flags.
    refused = block.client.post(PREDICT, json=BLOCKED)
    assert refused.json() == {"error": "picture: refused by safety_checker"}


def test_a_negative_prompt_may_exclude_what_a_prompt_may_not_have(flag: Running) -> None:
    body = {**ASKED, "negative_prompt": "a blue circle"}

    assert flag.client.post(PREDICT, json=body).headers["x-safety"] == "safety_classifier=flag"


def test_a_changed_list_applies_without_a_restart(flag: Running) -> None:
    before = flag.block_list.read_bytes()
    try:
        flag.block_list.write_text("star\n", "utf-8")
        wait_for_status(flag, ASKED, 400)
        wait_for_status(flag, BLOCKED, 200)
        # An unreadable file leaves the last good list in force.
        flag.block_list.write_bytes(b"\xff")
        time.sleep(1.1)
        for _ in range(2):
            assert flag.client.post(PREDICT, json=ASKED).status_code == 400
    finally:
        flag.block_list.write_bytes(before)
    wait_for_status(flag, ASKED, 200)

    log = flag.server.log.read_text()
    assert log.count("is not valid UTF-8 at byte 0; the last good list stays in force") == 1
    metrics = flag.client.get("/metrics").text
    (failures,) = samples(metrics, "diffusion_block_list_failures_total")
    assert failures.value >= 1


def wait_for_status(running: Running, body: dict[str, Any], status: int) -> None:
    deadline = time.monotonic() + 30
    while running.client.post(PREDICT, json=body).status_code != status:
        assert time.monotonic() < deadline, f"no {status}"
        time.sleep(0.1)


# Metrics and logs


def test_the_finding_is_never_disclosed(servers: dict[str, Running]) -> None:
    for running in servers.values():
        for body in (ASKED, BLOCKED):
            response = running.client.post(PREDICT, json=body, headers=AS_JSON)
            for prediction in predictions(response):
                shown = json.dumps(prediction.get("safety", [])) + str(response.headers)
                assert not {"gore", "lewd", "circle"} & set(shown.lower().split('"'))
        log = running.server.log.read_text().lower()
        assert "circle" not in log
        assert "star on a" not in log
        assert "gore" not in log


def test_a_picture_that_passes_is_counted_too(flag: Running) -> None:
    before = flag.count("safety_checker", "pass")

    flag.client.post(PREDICT, json=ASKED)

    assert flag.count("safety_checker", "pass") == before + 1
    assert flag.count("safety_checker", "error") == 0
