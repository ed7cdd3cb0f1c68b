"""A hub that lies: what is published is the truth, or nothing is and one sentence says why."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import httpx2
import huggingface_hub.constants
import pytest

from bench.download_faults import storm
from downloader.errors import (
    DownloadError,
    NetworkError,
    NotAuthorisedError,
    NotFoundError,
    TransientError,
    exit_of,
)
from downloader.settings import Fetch
from downloader.sources.access import Access
from downloader.sources.http import retry_after
from downloader.sources.huggingface import HubSource
from downloader.spec import parse_spec
from downloader.volume import staging
from modelstore import ModelStore
from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY
from tests.downloader.lying_hub import BREAKS, LIES, Lies, differences, true_files
from tests.downloader.pipeline_files import pipeline_files
from tests.downloader.test_faults import ranges
from tests.downloader.volume import download, leftovers, partial_sizes, revisions

pytestmark = pytest.mark.usefixtures("hub_of_this_process")

UNET = "unet/diffusion_pytorch_model.safetensors"
VOCABULARY = "tokenizer/vocab.json"
INDEX = "model_index.json"
SOURCE = f"hf://{REPOSITORY}"
SEEDS = 16
# What the message of each exit code may say, and the faults that explain the code.
SENTENCES = {
    4: (r"the hub lists \S+ but does not have it \(404\)", {"status 404"}),
    6: (r"digest|bytes at 127\.0\.0\.1, the source lists|more than", {*LIES, "none"}),
    7: (r"gave up after|in a loop|not requested|does not answer like a hub", {"any"}),
}


def test_random_lies_end_with_the_truth_or_with_one_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    truth = true_files(seed=1, elements=150_000)
    hub.repository(REPOSITORY).commit(truth)
    outcomes: Counter[int] = Counter()
    given: Counter[str] = Counter()
    for seed in range(SEEDS):
        target = tmp_path / str(seed)
        target.mkdir()
        hub.faults = lies = Lies(seed=seed, share=0.05 + 0.02 * seed, address_uses=1)
        code = outcome(target, truth, lies, caplog)
        outcomes[code] += 1
        given += lies.given

        hub.faults = Lies()
        download(SOURCE, target)
        assert differences((target / "sd").resolve(), truth) == [], seed
        assert (leftovers(target), len(revisions(target))) == (set(), 1), seed
    assert "Traceback" not in caplog.text
    assert hub.token not in caplog.text
    assert "Signature" not in caplog.text
    # The lies were varied, and neither all fatal nor all harmless.
    assert {kind.split()[0] for kind in given} >= {*BREAKS, *LIES, "status"}
    assert min(outcomes[0], SEEDS - outcomes[0]) > 3


def outcome(
    target: Path, truth: dict[str, bytes], lies: Lies, caplog: pytest.LogCaptureFixture
) -> int:
    """Download once, check what is visible, and return the exit code."""
    try:
        download(SOURCE, target, stall_seconds=0.4, max_retries=4)
    except DownloadError as error:
        code, text = exit_of(error).code, str(error)
        assert not (target / "sd").exists(), text
        pattern, reasons = SENTENCES[code]
        assert re.search(pattern, text), text
        assert reasons == {"any"} or reasons & set(lies.given), (text, lies.given)
        assert "\n" not in text
        return code
    assert differences((target / "sd").resolve(), truth) == []
    assert leftovers(target) == set()
    return 0


def test_kills_and_lies_end_in_one_good_revision(tmp_path: Path) -> None:
    result = storm(tmp_path, kills=3, processes=2, seed=5)

    assert result["violations"] == []
    assert result["kills"] >= 3


def test_each_continuation_asks_the_hub_for_a_new_address(hub: Hub, target: Path) -> None:
    truth = true_files(seed=1, elements=300_000)
    hub.repository(REPOSITORY).commit(truth)
    hub.faults.address_uses = 1
    hub.faults.once[UNET] = [Fault("truncate", after=100_000)] * 2

    download(SOURCE, target, max_retries=1)

    assert (target / "sd" / UNET).read_bytes() == truth[UNET]
    assert ranges(hub, UNET) == [None, "bytes=100000-", "bytes=200000-"]
    assert max(hub.faults.uses.values()) == 1


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("https://hub.example:443/api/hf/owner/name/resolve/main/a", NotAuthorisedError),
        ("https://hub.example.cdn.example/api/hf/a", TransientError),
        ("https://hub.example/api/hf-files/a", TransientError),
    ],
)
def test_only_the_hub_itself_refuses_a_token(
    monkeypatch: pytest.MonkeyPatch, address: str, kind: type[DownloadError]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.example/api/hf")
    source = HubSource(parse_spec(SOURCE), Access(Fetch()))  # type: ignore[arg-type]

    refused = source._refused(httpx2.Response(403, request=httpx2.Request("GET", address)))

    assert type(refused) is kind


@pytest.mark.parametrize("path", [UNET, VOCABULARY, INDEX])
@pytest.mark.parametrize("fault", ["flip", "gzip", "page", "elsewhere", "long"])
def test_one_lie_costs_one_more_request(hub: Hub, target: Path, path: str, fault: str) -> None:
    truth = true_files(seed=1, elements=20_000)
    hub.repository(REPOSITORY).commit(truth)
    hub.faults.once[path] = [Fault(fault, after=7)]  # type: ignore[arg-type]

    download(SOURCE, target)

    assert differences((target / "sd").resolve(), truth) == []
    assert not hub.faults.once[path]


def test_a_web_page_keeps_the_bytes_so_far(hub: Hub, target: Path) -> None:
    truth = true_files(seed=1, elements=300_000)
    hub.repository(REPOSITORY).commit(truth)
    hub.faults.once[UNET] = [Fault("truncate", after=200_000), Fault("page")]

    download(SOURCE, target)

    assert ranges(hub, UNET) == [None, "bytes=200000-", "bytes=200000-"]


def test_a_web_page_in_place_of_every_file_is_named(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("page")

    with pytest.raises(NetworkError, match=f"answered with a web page in place of {UNET}; gave up"):
        download(SOURCE, target, max_retries=1)


def test_a_compressed_range_is_read_from_the_start(hub: Hub, target: Path) -> None:
    truth = true_files(seed=1, elements=20_000)
    hub.repository(REPOSITORY).commit(truth)
    hub.faults.once[UNET] = [Fault("truncate", after=9000)]
    hub.faults.always[UNET] = Fault("gzip")

    download(SOURCE, target)

    assert differences((target / "sd").resolve(), truth) == []
    assert ranges(hub, UNET) == [None, "bytes=9000-", None]


def test_a_connection_that_drips_is_replaced(hub: Hub, target: Path) -> None:
    truth = true_files(seed=1, elements=90_000)
    hub.repository(REPOSITORY).commit(truth)
    hub.faults.once[UNET] = [Fault("drip", after=80_000)]

    download(SOURCE, target, stall_seconds=0.5)

    assert (target / "sd" / UNET).read_bytes() == truth[UNET]
    first, second = ranges(hub, UNET)
    assert first is None
    assert re.fullmatch(r"bytes=800\d\d-", str(second))


def test_a_hub_that_only_drips_ends_the_run(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("drip", after=10)

    with pytest.raises(NetworkError, match=r"sent only \d+ bytes in \d s; gave up after 2"):
        download(SOURCE, target, stall_seconds=0.5, max_retries=1)


def test_a_redirect_loop_is_one_sentence(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("loop")

    with pytest.raises(NetworkError, match=r"^127\.0\.0\.1 redirects in a loop$"):
        download(SOURCE, target)


def test_a_listed_file_that_does_not_exist_is_named(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    headers = (("X-Error-Code", "EntryNotFound"), ("X-Error-Message", "Entry not found"))
    hub.faults.always[VOCABULARY] = Fault("status", status=404, headers=headers)

    sentence = f"the hub lists {VOCABULARY} but does not have it (404) (the hub says: Entry not"
    with pytest.raises(NotFoundError, match=re.escape(sentence)):
        download(SOURCE, target)
    assert not (target / "sd").exists()


def test_a_refusal_that_breaks_off_is_tried_again(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.once[VOCABULARY] = [Fault("status", status=403, headers=(("Content-Length", "99"),))]

    download(SOURCE, target, stall_seconds=0.4)

    assert (target / "sd" / VOCABULARY).read_bytes() == pipeline_files()[VOCABULARY]


def test_versions_without_digests_never_mix(hub: Hub, target: Path) -> None:
    truth = true_files(seed=1, elements=1000)
    hub.repository(REPOSITORY).commit(truth)
    hub.mirrors = "names"
    hub.faults.always[VOCABULARY] = Fault("truncate", after=5000)
    with pytest.raises(NetworkError, match=r"the connection to .* broke"):
        download(SOURCE, target, max_retries=0)
    assert 5000 in partial_sizes(target)

    # The first response is that to the HEAD of the listing.
    hub.faults.clear()
    hub.faults.once[VOCABULARY] = [Fault("none"), Fault("changed"), Fault("changed")]
    hub.requests.clear()
    download(SOURCE, target)

    published = (target / "sd" / VOCABULARY).read_bytes()
    assert published == bytes(byte ^ 0x55 for byte in truth[VOCABULARY])
    requests = [one for one in hub.requests if one.path.endswith(VOCABULARY)]
    assert [one.headers.get("Range") for one in requests] == [None, "bytes=5000-", None]
    assert requests[1].headers["If-Range"].startswith('"')


@pytest.mark.parametrize(
    "change",
    [{"size": "12"}, {"size": -1}, {"size": None}, {"path": 5}, {"oid": None}, {"lfs": 7}],
    ids=str,
)
def test_a_listing_of_other_types_is_one_sentence(
    hub: Hub, target: Path, change: dict[str, object]
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    entry = {"type": "file", "path": INDEX, "size": 12, "oid": "a" * 40, **change}
    hub.faults.once["tree"] = [Fault("status", status=200, body=json.dumps([entry]).encode())]

    with pytest.raises(NetworkError, match=r"127\.0\.0\.1 does not answer like a hub$"):
        download(SOURCE, target)


def test_a_listing_that_repeats_itself_ends(hub: Hub, target: Path) -> None:
    commit = hub.repository(REPOSITORY).commit(pipeline_files())
    address = f"{hub.url}/api/models/{REPOSITORY}/tree/{commit}?recursive=True"
    entry = {"type": "file", "path": INDEX, "size": 12, "oid": "a" * 40}
    headers = (("Link", f'<{address}>; rel="next"'),)
    page = Fault("status", status=200, body=json.dumps([entry]).encode(), headers=headers)
    hub.faults.once["tree"] = [page] * 9

    with pytest.raises(NetworkError, match=r"does not answer like a hub$"):
        download(SOURCE, target)

    assert hub.api_calls.count("tree") == 2


@pytest.mark.parametrize("sha", [5, "../../etc", "", ["a"]], ids=str)
def test_a_commit_that_is_not_an_id_is_one_sentence(hub: Hub, target: Path, sha: object) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    body = json.dumps({"id": REPOSITORY, "sha": sha}).encode()
    hub.faults.once["revision"] = [Fault("status", status=200, body=body)]

    with pytest.raises(NetworkError, match=r"does not answer like a hub$"):
        download(SOURCE, target)


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "²"},
        {
            "Retry-After": "Sat, 21 Nov 99999999999999999999 10:00:00 GMT",
            "Date": "Sat, 21 Nov 2026 10:00:00 GMT",
        },
    ],
    ids=["superscript", "year"],
)
def test_a_pause_that_is_not_a_number_is_ignored(headers: dict[str, str]) -> None:
    assert retry_after(headers) is None


def test_a_range_of_an_impossible_size_is_one_sentence(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    headers = (("Content-Range", f"bytes 0-1/{'9' * 5000}"),)
    hub.faults.always[UNET] = Fault("status", status=206, headers=headers)

    with pytest.raises(NetworkError, match="a range that was not requested"):
        download(SOURCE, target)


def test_a_kill_during_the_wait_for_the_lease_leaves_nothing(hub: Hub, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    download(SOURCE, target)
    (target / ".staging" / ".sd.lease.0123456789abcdef").mkdir()

    assert download(SOURCE, target).was_published

    assert list((target / ".staging").iterdir()) == []


def test_a_candidate_for_the_lease_may_vanish_during_the_cleanup(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(target)
    candidate = target / ".staging" / ".sd.lease.0123456789abcdef"
    candidate.mkdir(parents=True)
    found = staging._is_remains

    def vanish(file_name: str, name: str) -> bool:
        candidate.rmdir()  # as the process that waits does
        return found(file_name, name)

    monkeypatch.setattr(staging, "_is_remains", vanish)
    staging.delete_all(store, "sd")

    assert leftovers(target) == set()
