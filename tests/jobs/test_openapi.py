"""``GET /openapi.json`` against the routes, docs/jobs.md and the responses of a real process."""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from starlette.routing import Route

from jobs.api.openapi import OPERATIONS, openapi_document
from jobs.api.service import Service
from jobs.job import STATUSES
from jobs.server import application
from jobs.settings import Settings
from jobs.storage import open_storage
from tests.jobs.jobs_process import JobsServer
from tests.jobs.receiver import SECRET
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.jobs.test_document import TEXT, section
from tests.serving import ROOT

KEYS = Settings(api_keys_file=Path("keys"))


class Jobs(NamedTuple):
    """A process, and its jobs: one in each state, and one whose picture is blocked."""

    server: JobsServer
    found: dict[str, dict[str, Any]]
    document: dict[str, Any]

    def check(self, value: Any, name: str) -> None:
        """The value has the schema of this name."""
        whole = {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}
        Draft202012Validator(whole).validate(value)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("jobs")
    flags = {
        "sqlite_path": folder / "jobs.sqlite3",
        "models": "sd,sdxl",
        "max_concurrency": 1,
        "max_expires_in": 100_000,
        "webhook_secrets": SECRET,
    }
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(folder / "log", predictor.url, **flags) as server,
    ):
        document = server.request("GET", "/openapi.json").json()
        yield Jobs(server, _in_each_state(server), document)


def _in_each_state(server: JobsServer) -> dict[str, dict[str, Any]]:
    """The worker is busy afterwards: other jobs wait."""
    found = {}
    for name, prompt, status in (
        ("succeeded", "a red star", "succeeded"),
        ("blocked", "blocked", "succeeded"),
        ("failed", "invalid", "failed"),
        ("in_progress", "hold", "in_progress"),
        ("starting", "full", "starting"),
    ):
        model = "sdxl" if name == "starting" else "sd"
        job = server.submit({"prompt": prompt, "model": model})
        found[name] = server.wait_for_status(job["id"], status)
    found["queued"], waiting = (server.submit({"prompt": "x", "model": "sd"}) for _ in range(2))
    found["cancelled"] = server.request("DELETE", f"/v1/jobs/{waiting['id']}").json()
    # Its record is kept for as long again, so it is read at the end of the job.
    brief = {"prompt": "x", "model": "sd", "expires_in": 3}
    found["expired"] = server.submit(brief, Prefer="wait=30")
    return found


def test_the_document_is_valid(jobs: Jobs) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    for document in (jobs.document, openapi_document(KEYS)):
        assert document["openapi"].startswith("3.1")
        assert document["info"]["version"] == project["version"]
        validate(document)


def test_every_route_is_described(tmp_path: Path) -> None:
    own = Settings(sqlite_path=tmp_path / "unused")
    routes = application(Service(open_storage(own), own)).routes
    served = {
        (method.lower(), route.path)
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert {*OPERATIONS} == served


@pytest.mark.parametrize("own", [KEYS, Settings()], ids=["keys", "open"])
def test_the_table_of_routes_has_the_same_statuses(own: Settings) -> None:
    rows = re.findall(r"^\| `(\w+ /[^`]*)` \| .* \| ([\d, ]+) \|$", section("Routes"), re.MULTILINE)
    documented = {route: {*statuses.split(", ")} for route, statuses in rows}
    described = {
        f"{method.upper()} {path}": {*operation["responses"]}
        for path, operations in openapi_document(own)["paths"].items()
        for method, operation in operations.items()
    }

    if own is not KEYS:
        documented = {route: statuses - {"401"} for route, statuses in documented.items()}
    assert described == documented


def test_each_error_has_a_sentence() -> None:
    for operations in openapi_document(KEYS)["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                assert re.fullmatch(r"[A-Z].*\.", response["description"])


def test_only_a_server_with_keys_requires_one() -> None:
    closed, open_ = openapi_document(KEYS), openapi_document(Settings())
    without = {
        path
        for path, operations in closed["paths"].items()
        for operation in operations.values()
        if "security" not in operation
    }

    assert without == {"/metrics", "/v2/health/live", "/v2/health/ready"}
    assert closed["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "security" not in json.dumps(open_)


def test_a_picture_has_a_link_only_with_a_bucket() -> None:
    fields = [
        openapi_document(own)["components"]["schemas"]["Picture"]["properties"].keys()
        for own in (Settings(bucket_url="s3://pictures"), Settings())
    ]

    assert fields[0] - fields[1] == {"presigned_url"}


def test_the_example_of_a_job_matches(jobs: Jobs) -> None:
    [example] = re.findall(r"```json\n(.*?)```", TEXT.partition("\n## A job\n")[2], re.DOTALL)[:1]
    job = json.loads(example)

    jobs.check(job, "Job")
    assert job.keys() == jobs.document["components"]["schemas"]["Job"]["properties"].keys()


@pytest.mark.parametrize("name", [*STATUSES, "blocked"])
def test_a_job_of_each_state_matches(jobs: Jobs, name: str) -> None:
    job = jobs.found[name]

    assert job["status"] == ("succeeded" if name == "blocked" else name)
    jobs.check(job, "Job")
    assert job.keys() == jobs.document["components"]["schemas"]["Job"]["properties"].keys()


def test_the_events_match(jobs: Jobs) -> None:
    path = f"/v1/jobs/{jobs.found['succeeded']['id']}/events"
    text = jobs.server.request("GET", path).text
    [data] = re.findall(r"^event: job\ndata: (.*)\n\n$", text, re.MULTILINE)

    jobs.check({"event": "job", "data": data}, "Event")
    jobs.check(json.loads(data), "Job")


@pytest.mark.parametrize("name", ["priority", "expires_in"])
def test_the_bounds_are_those_of_the_server(jobs: Jobs, name: str) -> None:
    schema = jobs.document["components"]["schemas"]["Submission"]["properties"][name]
    least, most = schema["minimum"], schema["maximum"]
    found = [
        jobs.server.request("POST", "/v1/jobs", json={"prompt": "x", name: value}).status_code
        for value in (least, most, least - 0.5, most + 0.5)
    ]

    assert found == [202, 202, 400, 400]
    assert jobs.server.submit({"prompt": "x"})["priority"] == 5


def test_the_fields_of_a_job_follow_the_settings(jobs: Jobs) -> None:
    own, other = (
        document["components"]["schemas"]["Submission"]["properties"]
        for document in (jobs.document, openapi_document(Settings()))
    )

    assert own["model"] == {"enum": ["sd", "sdxl", None], "default": "sd"}
    assert own["expires_in"]["maximum"] == 100_000
    assert own.keys() - other.keys() == {"webhook"}, "a server without secrets refuses it"


def test_generated_requests_get_what_is_documented(jobs: Jobs) -> None:
    schema = schemathesis.openapi.from_dict(jobs.document)
    schema.config.update(base_url=jobs.server.url)
    found: dict[str, set[int]] = defaultdict(set)
    ended = [jobs.found[name]["id"] for name in ("succeeded", "failed", "blocked")]

    for operation in (result.ok() for result in schema.get_all_operations()):
        # No header is wrong, and a wrong path is that of another operation, or of none.
        can_be_wrong = bool(operation.body or operation.query)
        for mode in GenerationMode if can_be_wrong else (GenerationMode.POSITIVE,):
            cases = operation.as_strategy(generation_mode=mode)
            for job_id in (None, *ended) if operation.path_parameters else (None,):
                found[operation.label] |= _send_examples(cases, job_id)

    assert found["POST /v1/jobs"] >= {202, 400}
    assert found["GET /v1/jobs"] >= {200, 400}
    assert found["GET /v1/jobs/{id}/pictures/{number}"] >= {200, 404}
    assert found["GET /result/{id}"] >= {200, 404, 409}


def _send_examples(cases: SearchStrategy[schemathesis.Case], job_id: str | None) -> set[int]:
    """Send a few requests, about the job if there is one; returns the statuses."""
    found = set()

    @settings(
        max_examples=6,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: schemathesis.Case) -> None:
        if job_id:
            existing = {"id": job_id, "number": 0}
            case.path_parameters |= {name: existing[name] for name in case.path_parameters}
        response = case.call(timeout=60)
        found.add(response.status_code)
        documented = {int(one) for one in case.operation.definition.raw["responses"]}
        assert response.status_code in documented, case.as_curl_command()
        case.validate_response(
            response,
            checks=[
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ],
        )

    send()
    return found
