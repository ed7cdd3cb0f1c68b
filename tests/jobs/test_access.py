"""Keys: which requests need one, and whose jobs a caller sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.api_keys import parse
from tests.jobs.jobs_process import PROMPT, JobsServer
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.jobs.test_arguments import run
from tests.waiting import wait_until


def line(name: str, key: str, limits: str = "") -> str:
    return f"{name} user {hashlib.sha256(key.encode()).hexdigest()} {limits}\n"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "api-keys"
    file.write_text(f"# team\n{line('alice', 'sk-a')}{line('bob', 'sk-b', 'pictures=5')}")
    return file


@pytest.fixture(scope="module")
def server(keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsServer]:
    folder = tmp_path_factory.mktemp("jobs")
    flags = {
        "sqlite_path": folder / "jobs.sqlite3",
        "api_keys_file": keys_file,
        "key_jobs_per_minute": 4,
        "predictor_api_key": "sk-worker",
    }
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(folder / "log", predictor.url, **flags) as running,
    ):
        yield running


def call(server: JobsServer, method: str, path: str, key: str, **rest: object) -> httpx.Response:
    return server.request(method, path, headers={"authorization": f"Bearer {key}"}, **rest)


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer sk-other"}, {"authorization": "Basic c2stYQ=="}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("POST", "/generate"),
        ("GET", "/status/any"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
    ],
)
def test_every_route_requires_a_key(
    server: JobsServer, method: str, path: str, headers: dict[str, str]
) -> None:
    refused = server.request(method, path, headers=headers)

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "key" in refused.json()["error"]


@pytest.mark.parametrize("path", ["/metrics", "/v2/health/live", "/v2/health/ready"])
def test_the_probes_and_the_metrics_require_none(server: JobsServer, path: str) -> None:
    assert server.request("GET", path).status_code == 200


def test_a_job_belongs_to_its_key(server: JobsServer) -> None:
    response = call(server, "POST", "/v1/jobs", "sk-a", json=PROMPT | {"prompt": "hold"})
    path = response.headers["location"]
    job_id = response.json()["id"]
    others = [
        call(server, "GET", path, "sk-b"),
        call(server, "DELETE", path, "sk-b"),
        call(server, "GET", f"{path}/events", "sk-b"),
        call(server, "GET", f"{path}/pictures/0", "sk-b"),
        call(server, "GET", f"/status/{job_id}", "sk-b"),
        call(server, "GET", f"/result/{job_id}", "sk-b"),
    ]
    unknown = call(server, "GET", "/v1/jobs/none", "sk-b").json()["error"]
    lists = {
        key: [job["id"] for job in call(server, "GET", "/v1/jobs", key).json()["jobs"]]
        for key in ("sk-a", "sk-b")
    }
    own = call(server, "DELETE", path, "sk-a")

    assert [one.status_code for one in others] == [404] * 6
    assert others[0].json()["error"] == unknown.replace("'none'", repr(job_id))
    assert job_id in lists["sk-a"]
    assert lists["sk-b"] == []
    assert (own.status_code, own.json()["status"]) == (200, "cancelled")


def test_a_key_that_submits_too_fast_gets_429(server: JobsServer) -> None:
    responses = [call(server, "POST", "/v1/jobs", "sk-b", json=PROMPT) for _ in range(5)]

    assert [one.status_code for one in responses] == [202] * 4 + [429]
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 15
    assert responses[-1].json()["error"].startswith("the limit of this key is 4 jobs a minute")


def test_the_file_is_read_again(server: JobsServer, keys_file: Path) -> None:
    before = keys_file.read_text()
    keys_file.write_text("not a key")
    wait_until(lambda: bool(call(server, "GET", "/v1/jobs", "sk-a")) and _logged(server))
    still = call(server, "GET", "/v1/jobs", "sk-a").status_code
    keys_file.write_text(before + line("carol", "sk-c"))

    assert still == 200, "the last good keys stay in force"
    wait_until(lambda: call(server, "GET", "/v1/jobs", "sk-c").status_code == 200)


def _logged(server: JobsServer) -> bool:
    return "the last good keys stay in force" in server.log.read_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "contains no keys"),
        ("a user abc", "line 1: the third word must be the SHA-256 digest"),
        ("# x\na root " + "0" * 64, "line 2: the role must be user or admin"),
        (line("a:b", "x"), "line 1: the name must be"),
        (line("a", "x") + line("b", "x"), "contains one key twice"),
    ],
)
def test_an_invalid_file(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(content.encode())


def test_a_server_without_its_keys_does_not_start(tmp_path: Path) -> None:
    done = run(f"--api_keys_file={tmp_path}/missing")

    assert done.returncode == 1
    assert done.stderr.startswith("jobs: api_keys_file ")


def test_a_limit_requires_keys() -> None:
    done = run("--key_queued_jobs=3")

    assert done.returncode == 2
    assert "a limit per key requires keys: set api_keys_file" in done.stderr
