"""Flags and settings of ``python -m jobs``: what is wrong is one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import parse_arguments
from tests.serving import ROOT


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_flags_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_MAX_TRIES", "5")
    monkeypatch.setenv("JOBS_PORT", "9001")
    settings = parse_arguments(["--max-tries=7"])

    assert (settings.max_tries, settings.port) == (7, 9001)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--max_tries=1", "--max_tries: '1': must be greater than or equal to 2"),
        ("--predictor_url=here", "--predictor_url: 'here': is not valid. Where the predictor"),
        ("--predictor_urls=a", "--predictor_urls: 'a': is not valid. Where the predictors"),
        ("--bucket_url=s3://", "--bucket_url: 's3://': is not valid. The S3 bucket"),
        ("--models=a,", "--models: 'a,': is not valid. The models that take jobs"),
        (
            "--default_expires_in=0.5",
            "--default_expires_in: '0.5': must be greater than or equal to 1",
        ),
        (
            "--max_expires_in=inf",
            "--max_expires_in: 'inf': must be less than or equal to 315360000",
        ),
        ("--lease_seconds=inf", "--lease_seconds: 'inf': must be less than or equal to 86400"),
        ("--default_expires_in=1e9", "default_expires_in must be at most max_expires_in"),
        (
            "--webhook_networks=10.0.0.1/8",
            "webhook_networks: 10.0.0.1/8 is an address in a network: write 10.0.0.0/8",
        ),
        ("--unknown=1", "unrecognized arguments: --unknown=1"),
    ],
)
def test_an_invalid_flag(flag: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments([flag])

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"jobs: error: {reason}")


def test_each_model_may_have_its_own_predictor() -> None:
    settings = parse_arguments(
        ["--predictor_url=http://any/{model}", "--predictor_urls=a=http://one:80/x/,b=http://two"]
    )

    urls = {model: settings.url_of(model) for model in ("a", "b", "c")}
    assert urls == {"a": "http://one:80/x", "b": "http://two", "c": "http://any/c"}


@pytest.mark.parametrize("url", ["http://secret@host", "redis://host:secret/0", "secret"])
def test_an_invalid_redis_url_is_not_shown(url: str) -> None:
    done = run(f"--redis_url={url}")

    assert done.returncode == 1
    assert done.stderr.startswith("jobs: redis_url: ")
    assert "secret" not in done.stderr


@pytest.mark.parametrize("secret", ["secret", "whsec_secret", "whsec_c2hvcnQ=", ""])
def test_an_invalid_webhook_secret_is_not_shown(
    secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = "whsec_" + "A" * 32
    with pytest.raises(SystemExit):
        parse_arguments([f"--webhook_secrets={valid},{secret}"])

    shown = capsys.readouterr().err
    assert shown == (
        "jobs: error: webhook_secrets: a secret must be whsec_ and the base64 form of 24 to 64 "
        "bytes\n"
    )


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    done = run(f"--sqlite_path={tmp_path}/missing/jobs.sqlite3")

    assert done.returncode == 1
    assert done.stderr.startswith("jobs: sqlite_path: cannot open ")
