"""What the notes say about the jobs program."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from jobs.requests import new_job

from .rendering import Object, Rendered, case, render
from .test_chart_jobs import JOBS, NAME, VALKEY, settings_of
from .test_chart_jobs_routes import jobs_route


def jobs_notes(rendered: Rendered) -> str:
    """The step of the notes about jobs, with one space for each line break."""
    step = rendered.notes.partition("Submit a job")[2].partition("Troubleshooting")[0]
    return " ".join(step.split())


def curl(rendered: Rendered) -> list[str]:
    """The curl command, as the shell splits it."""
    found = re.search(r"curl .* --data '[^']*'", jobs_notes(rendered))
    assert found
    return shlex.split(found[0].replace(" \\ ", " "))


@pytest.mark.parametrize("rendered", [case("jobs"), render({"jobs": JOBS})], ids=["keys", "open"])
def test_the_command_submits_a_job_of_the_first_model(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = curl(rendered)
    settings = settings_of(rendered, monkeypatch)
    body = command[command.index("--data") + 1]
    (port,) = rendered.named("Service", NAME)["spec"]["ports"]

    assert command[2] == "http://127.0.0.1:8081/v1/jobs"
    assert f"port-forward service/{NAME} 8081:{port['port']}" in jobs_notes(rendered)
    assert new_job(body.encode(), None, settings).model == settings.model_names[0]
    assert json.loads(body)["model"] == settings.model_names[0]
    requires_key = settings.api_keys_file is not None
    assert ("Authorization: Bearer $JOBS_API_KEY" in command) is requires_key


@pytest.mark.parametrize(
    ("values", "where", "loss"),
    [
        ({"jobs": JOBS}, f"claim {NAME}.", "the last commits are lost"),
        ({"jobs": VALKEY}, f"in {NAME}-valkey", "the last second of changes is lost"),
        (
            {
                "jobs": {**JOBS, "redis": {"secretName": "team-redis"}},
                "networkPolicy": {"enabled": False},
            },
            "Redis of the secret team-redis",
            "appendonly yes",
        ),
    ],
    ids=["sqlite", "valkey", "redis"],
)
def test_the_notes_say_where_the_jobs_are_and_what_can_be_lost(
    values: Object, where: str, loss: str
) -> None:
    found = jobs_notes(render(values))
    assert where in found
    assert loss in found


def test_the_notes_say_which_bucket_has_the_pictures() -> None:
    rendered = render({"jobs": JOBS | {"bucket": {"url": "s3://pictures/jobs"}}})
    assert "Their pictures are in s3://pictures/jobs." in jobs_notes(rendered)
    assert "Their pictures" not in jobs_notes(render({"jobs": JOBS}))


def test_the_notes_say_whether_keys_and_webhooks_are_on() -> None:
    bare, full = jobs_notes(render({"jobs": JOBS})), jobs_notes(case("jobs"))

    assert "Everyone who can connect sees all jobs" in bare
    assert "Jobs with a webhook are rejected" in bare
    assert f"Callers need a key of the secret {NAME}-keys" in full
    assert f"Webhooks are signed with the secret {NAME}-webhooks" in full


def test_the_notes_have_the_addresses() -> None:
    found = jobs_notes(render(jobs_route(hosts=["jobs.example.com"])))

    assert f"http://{NAME}.pictures.svc." in found
    assert "from outside: jobs.example.com." in found


def test_without_jobs_the_notes_do_not_mention_them() -> None:
    assert "jobs" not in render({"downloader": {"enabled": False}}).notes
