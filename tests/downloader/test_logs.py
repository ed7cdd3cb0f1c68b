"""The log: text lines, JSON objects, a bar, and the summary for the kubelet."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from downloader.errors import EXITS, InterruptedRunError
from downloader.fetch import progress
from downloader.fetch.progress import Meter, shown
from downloader.logs import JsonFormatter, WithoutSecrets, write_termination_log
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files, safetensors

UNET = "unet/diffusion_pytorch_model.safetensors"
LINE = r"sd: \d+\.\d\d of 6\.00 MB \(\d+ %\), \d+\.\d MB/s, (\d+ s left|stalled)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)


def work(meter: Meter, *, as_bar: bool) -> None:
    with shown(meter, "sd", as_bar=as_bar):
        for _ in range(4):
            time.sleep(0.06)
            meter.advance(1_000_000)


def test_progress_is_a_line_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="downloader"):
        work(Meter(6_000_000, 1_000_000), as_bar=False)

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= 2
    assert all(re.fullmatch(LINE, line) for line in lines), lines
    fields = caplog.records[-1].__dict__["fields"]
    assert fields.keys() == {
        "model",
        "done_bytes",
        "total_bytes",
        "bytes_per_second",
        "eta_seconds",
    }
    assert 1_000_000 < fields["done_bytes"] <= 5_000_000


def test_the_progress_of_large_models_is_in_gigabytes(caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter(6_940_000_000, 1_200_000_000)
    with caplog.at_level("INFO", logger="downloader"), shown(meter, "sdxl", as_bar=False):
        time.sleep(0.1)
    assert caplog.records[0].getMessage() == "sdxl: 1.20 of 6.94 GB (17 %), 0.0 MB/s, stalled"


def test_progress_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_BAR_SECONDS", 0.05)
    work(Meter(5_000_000, 1_000_000), as_bar=True)
    text = capsys.readouterr().err
    assert "sd: 100%" in text
    assert "5.00M/5.00M" in text


def test_a_terminal_gets_the_bar_and_a_pipe_the_lines(hub: Hub, job: Job) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    done = subprocess.run(
        [sys.executable, "-m", "downloader"],
        env=job.environment,
        stderr=slave,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    os.close(slave)
    shown_text = b""
    try:
        while piece := os.read(master, 65536):
            shown_text += piece
    except OSError:  # the other end is closed
        pass
    os.close(master)

    assert done.returncode == 0
    assert b"sd: 100%|" in shown_text


def test_json_is_one_object_per_line_with_the_documented_fields(
    hub: Hub, job: Job, target: Path
) -> None:
    files = pipeline_files() | {UNET: safetensors(1, 3_000_000)}
    commit = hub.repository(REPOSITORY).commit(files)
    hub.faults.pace = (64 * 1024, 0.06)

    result = job.run("--log-format", "json")

    assert result.returncode == 0
    assert result.stdout == ""
    records = [json.loads(line) for line in result.stderr.splitlines()]
    assert all(record.keys() >= {"time", "level", "event", "message"} for record in records)
    events = {record["event"]: record for record in records}
    size = sum(map(len, files.values()))
    plan = {"model": "sd", "files": len(files), "total_bytes": size, "revision": commit}
    assert plan.items() <= events["plan"].items()
    assert events["progress"]["total_bytes"] == size
    assert 0 < events["progress"]["done_bytes"] < size
    assert events["progress"].keys() >= {"model", "bytes_per_second", "eta_seconds"}
    assert events["verified"]["files"] == len(files)
    assert events["published"]["path"] == str(target / "sd")
    assert (events["published"]["model"], events["published"]["revision"]) == ("sd", commit)

    again = job.run("--log-format", "json")
    assert json.loads(again.stderr.splitlines()[-1])["event"] == "unchanged"
    assert json.loads(again.stderr.splitlines()[-1])["revision"] == commit

    failed = job.run("--log-format", "json", "--source", f"hf://{REPOSITORY}@gone")
    error = json.loads(failed.stderr.splitlines()[-1])
    assert (error["event"], error["exit_code"]) == ("error", 4)
    assert "no revision 'gone'" in error["message"]


def test_the_kubelet_gets_a_summary_of_success_and_failure(hub: Hub, job: Job) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    done = job.run()
    assert job.termination_log.read_text() == done.stdout.rstrip("\n")

    job.run("--source", f"hf://{REPOSITORY}@gone")
    assert job.termination_log.read_text().startswith(f"hf://{REPOSITORY}@gone: the repository")


def test_the_summary_is_short_and_not_written_without_a_kubelet(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    write_termination_log(log, "x")
    assert not log.exists()
    log.touch()
    write_termination_log(log, "x" * 10_000)
    assert len(log.read_text()) == 4096


@pytest.mark.parametrize("verb", ["plan", "fetch"])
def test_a_closed_output_ends_the_run_as_quietly_as_an_interruption(
    hub: Hub, job: Job, verb: str
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "downloader", verb],
        env=job.environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)

    assert done.returncode == EXITS[InterruptedRunError].code, done.stderr
    assert not re.search("error|Traceback|bug", done.stderr)
    assert job.termination_log.read_text().startswith("interrupted: the program that reads")


def test_secrets_are_masked_in_log_lines() -> None:
    record = logging.LogRecord("a", 20, "", 1, "token is %s", ("hf_secret",), None)
    line = WithoutSecrets(JsonFormatter(), ["hf_secret", ""]).format(record)
    assert "hf_secret" not in line
    assert json.loads(line)["message"] == "token is ***"
