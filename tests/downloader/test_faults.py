"""Faults of the network and the hub, and how the downloader handles each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from downloader.errors import CorruptFileError, NetworkError, UnsuitableModelError
from downloader.sources.http import retry_after
from modelstore import MARKER_NAME
from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files, safetensors
from tests.downloader.volume import download, file_names

UNET = "unet/diffusion_pytorch_model.safetensors"
SMALL = "unet/config.json"
SOURCE = f"hf://{REPOSITORY}"


pytestmark = pytest.mark.usefixtures("hub_of_this_process")


def ranges(hub: Hub, path: str) -> list[str | None]:
    """The requested ranges of a file, in order, without the hub's redirects."""
    requested = [
        one for one in hub.requests if one.path.endswith(path) and "/resolve/" not in one.path
    ]
    return [one.headers.get("Range") for one in requested]


@pytest.mark.parametrize(
    ("fault", "resumed_at"),
    [
        (Fault("reset", after=1000), 1000),
        (Fault("truncate", after=1000), 1000),
        (Fault("stall", after=1000), 1000),
        (Fault("status", status=503), 0),
        (Fault("status", status=502), 0),
        (Fault("status", status=408), 0),
        (Fault("status", status=403), 0),
        (Fault("reset", after=0), 0),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, Fault) else str(value),
)
def test_one_fault_costs_one_more_request_and_no_byte_twice(
    hub: Hub, target: Path, fault: Fault, resumed_at: int
) -> None:
    files = pipeline_files()
    hub.repository(REPOSITORY).commit(files)
    hub.faults.once[UNET] = [fault]

    download(SOURCE, target, stall_seconds=2)

    assert file_names(target / "sd") == set(files) | {MARKER_NAME}
    assert (target / "sd" / UNET).read_bytes() == files[UNET]
    requested = ranges(hub, UNET)
    # An RST may overtake bytes in transit.
    if fault.kind != "reset":
        assert requested == [None, f"bytes={resumed_at}-" if resumed_at else None]
    assert len(requested) == 2


def test_faults_in_a_row_do_not_add_up_while_bytes_arrive(hub: Hub, target: Path) -> None:
    files = pipeline_files() | {UNET: safetensors(1, 1_000_000)}
    hub.repository(REPOSITORY).commit(files)
    hub.faults.once[UNET] = [Fault("truncate", after=70_000)] * 12

    download(SOURCE, target, max_retries=2)

    assert (target / "sd" / UNET).read_bytes() == files[UNET]
    assert ranges(hub, UNET)[1:3] == ["bytes=70000-", "bytes=140000-"]


def test_a_few_bytes_at_a_time_are_not_progress(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("truncate", after=10)

    with pytest.raises(NetworkError, match="gave up after 3 attempts"):
        download(SOURCE, target, max_retries=2)


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (Fault("truncate", after=0), 4),
        (Fault("status", status=500), 4),
        (Fault("stall", after=0), 4),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_permanent_fault_ends_after_a_limited_number_of_attempts(
    hub: Hub, target: Path, fault: Fault, attempts: int
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = fault

    with pytest.raises(NetworkError, match=f"gave up after {attempts} attempts"):
        download(SOURCE, target, stall_seconds=0.5, max_retries=3)

    assert len(ranges(hub, UNET)) == attempts
    assert not (target / "sd").exists()


def test_a_server_that_repeats_the_same_bytes_makes_no_progress(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("truncate", after=1000, ignores_range=True)

    with pytest.raises(NetworkError, match="gave up after 3 attempts"):
        download(SOURCE, target, max_retries=2)


def test_a_retry_waits_as_long_as_an_overloaded_hub_requests(
    hub: Hub, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.once[UNET] = [Fault("status", status=429, headers=(("Retry-After", "1"),))]
    hub.faults.once["revision"] = [Fault("status", status=429, headers=(("Retry-After", "0"),))]

    with caplog.at_level("WARNING", logger="downloader"):
        download(SOURCE, target)

    retries = [
        re.search(r"429; retrying in (\d+\.\d) s", record.getMessage()) for record in caplog.records
    ]
    seconds = [float(one[1]) for one in retries if one]
    assert len(retries) == len(seconds) == 2
    # Jitter adds up to a second.
    assert 0 <= seconds[0] <= 1
    assert 1 <= seconds[1] <= 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        (
            {
                "Retry-After": "Sat, 21 Nov 2026 10:00:30 GMT",
                "Date": "Sat, 21 Nov 2026 10:00:00 GMT",
            },
            30,
        ),
        ({"Retry-After": "Sat, 21 Nov 2026 10:00:30 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_a_server_requests(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("path", [UNET, SMALL])
def test_wrong_bytes_are_fetched_three_times_and_then_refused(
    hub: Hub, target: Path, path: str
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.corrupt.add(path)

    with pytest.raises(CorruptFileError, match="digest"):
        download(SOURCE, target)

    assert ranges(hub, path) == [None] * 3 or path == SMALL
    assert not (target / "sd").exists()


def test_a_length_that_is_not_the_listed_one_is_refused(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("short", after=100)

    with pytest.raises(CorruptFileError, match=r"has 100 bytes at 127\.0\.0\.1, the source lists"):
        download(SOURCE, target)


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: Hub, target: Path) -> None:
    files = pipeline_files()
    hub.repository(REPOSITORY).commit(files)
    hub.faults.once[UNET] = [Fault("truncate", after=1000), Fault("none", ignores_range=True)]

    download(SOURCE, target)

    assert (target / "sd" / UNET).read_bytes() == files[UNET]
    assert ranges(hub, UNET) == [None, "bytes=1000-"]


def test_after_a_range_that_was_not_requested_the_whole_file_is_fetched(
    hub: Hub, target: Path
) -> None:
    files = pipeline_files()
    hub.repository(REPOSITORY).commit(files)
    hub.faults.once[UNET] = [Fault("truncate", after=1000), Fault("wrong_range")]

    download(SOURCE, target)

    assert (target / "sd" / UNET).read_bytes() == files[UNET]
    assert ranges(hub, UNET) == [None, "bytes=1000-", None]


def test_a_server_that_always_sends_another_range_is_given_up(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("wrong_range", ignores_range=True)

    with pytest.raises(NetworkError, match="not requested; gave up after 3 attempts"):
        download(SOURCE, target, max_retries=2)

    assert ranges(hub, UNET) == [None] * 3


def test_invalid_weights_at_the_source_are_not_served(hub: Hub, target: Path) -> None:
    # The digest is right: the repository contains a web page instead of weights.
    hub.repository(REPOSITORY).commit(pipeline_files() | {UNET: b"<html>not found</html>"})

    with pytest.raises(UnsuitableModelError, match="not a valid safetensors file"):
        download(SOURCE, target)

    assert not (target / "sd").exists()


def test_a_name_that_does_not_resolve_is_a_network_error(job: Job) -> None:
    result = job.run(HF_ENDPOINT="http://hub.invalid", DOWNLOADER_MAX_RETRIES="1")

    assert result.returncode == 7
    assert "retrying in" in result.stderr
    assert "hub.invalid cannot be reached (ConnectError: " in result.stderr.splitlines()[-1]
    assert "gave up after 2 attempts" in result.stderr.splitlines()[-1]


def test_an_unreachable_hub_is_a_network_error(job: Job) -> None:
    result = job.run(HF_ENDPOINT="http://127.0.0.1:9", DOWNLOADER_MAX_RETRIES="0")

    assert result.returncode == 7
    sentence = f"error: hf://{REPOSITORY}@main: 127.0.0.1 cannot be reached (ConnectError: "
    assert result.stderr.startswith(sentence)
    assert len(result.stderr.splitlines()) == 1
