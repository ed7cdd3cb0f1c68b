"""docs/jobs.md lists the routes, statuses and errors that exist, and all commands work."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import Any, get_args

from starlette.routing import Route

from jobs.api.error_responses import STATUS
from jobs.api.metrics import METRICS
from jobs.api.service import Service
from jobs.job import STATUSES, WebhookEvent
from jobs.server import application
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.webhook_signature import read_secrets, signed_headers
from tests.contract.test_documents import run_script
from tests.jobs.jobs_process import JobsServer
from tests.jobs.receiver import SECRET
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.serving import ROOT

TEXT = (ROOT / "docs" / "jobs.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
LOCAL = "http://127.0.0.1:8081"
BLOCKS, README_BLOCKS = (
    [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if LOCAL in block]
    for text in (TEXT, README)
)


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(title: str) -> list[str]:
    return re.findall(r"^\| `?([^|`]+?)`? \|", section(title), re.MULTILINE)[2:]


def test_the_routes(tmp_path: Path) -> None:
    settings = Settings(sqlite_path=tmp_path / "unused")
    routes = application(Service(open_storage(settings), settings)).routes
    found = {
        f"{method} {re.sub(r':int', '', route.path)}"
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert set(first_column("Routes")) == found


def test_the_statuses_of_a_job() -> None:
    assert first_column("A job") == list(STATUSES)


def test_the_errors() -> None:
    documented = {int(status) for status in first_column("Errors")}

    assert documented == {int(status) for status in STATUS.values()}


def test_the_metrics() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| [^|]* \| ([^|]+) \|$", section("Metrics"), re.MULTILINE
    )

    assert rows == list(METRICS)


def test_the_events_of_a_webhook() -> None:
    assert first_column("Webhooks") == [f"job.{event}" for event in get_args(WebhookEvent)]


def test_the_example_verifies_what_the_program_signs() -> None:
    [example] = re.findall(r"```python\n(.*?)```", section("Webhooks"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    verify, body, now = names["verify"], b'{"type": "job.started"}', int(time.time())
    other = base64.b64encode(b"another secret of 26 bytes").decode()
    keys = read_secrets(f"{SECRET},whsec_{other}")
    headers = signed_headers(keys, "msg_1", now, body)

    assert verify(SECRET, headers, body)
    assert verify(f"whsec_{other}", headers, body)
    assert not verify(SECRET, headers, body + b" ")
    assert not verify(SECRET, headers | {"webhook-id": "msg_2"}, body)
    assert not verify("whsec_" + "A" * 32, headers, body)
    assert not verify(SECRET, signed_headers(keys, "msg_1", now - 900, body), body)


def test_the_commands_work_as_written(tmp_path: Path) -> None:
    assert len(BLOCKS) >= 5
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(
            tmp_path / "log", predictor.url, sqlite_path=tmp_path / "jobs.sqlite3"
        ) as server,
    ):
        outputs, (short,) = (
            [run_script(block.replace(LOCAL, server.url), tmp_path) for block in blocks]
            for blocks in (BLOCKS, README_BLOCKS)
        )

    assert not [output for output in outputs if '"error":"' in output]
    assert "location: /v1/jobs/" in outputs[0]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"picture of 'a red circle")
    assert outputs[2].startswith('{"jobs":[{"id":')
    assert outputs[3].startswith("event: job\n")
    assert outputs[4].startswith('{"job_id":')
    assert '"status":"succeeded"' in short
