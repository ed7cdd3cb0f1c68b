"""One safetensors file on a web server, identified by its digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.errors import CorruptFileError, NotFoundError
from downloader.sources import retry
from modelstore import MARKER_NAME, Marker
from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub, sha256
from tests.downloader.pipeline_files import safetensors
from tests.downloader.volume import download, file_names

CONTENT = safetensors(4, 5000)


@pytest.fixture(autouse=True)
def _a_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["x.safetensors"] = CONTENT
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("place", ["files", "moved"])
def test_a_checkpoint_is_published_under_its_own_name(hub: Hub, target: Path, place: str) -> None:
    url = f"{hub.url}/{place}/x.safetensors?token=secret"

    download(url, target, sha256=sha256(CONTENT))

    assert file_names(target / "sd") == {"x.safetensors", MARKER_NAME}
    assert (target / "sd" / "x.safetensors").read_bytes() == CONTENT
    marker = Marker.read(target / "sd")
    assert marker.revision == f"sha256:{sha256(CONTENT)}"
    assert marker.source == url.partition("?")[0]
    assert "secret" not in (target / "sd" / MARKER_NAME).read_text()
    hub.requests.clear()
    assert download(url, target, sha256=sha256(CONTENT)).was_published
    assert hub.requests == []


def test_a_file_that_changes_during_the_download_is_never_spliced(hub: Hub, target: Path) -> None:
    # The range request carries the ETag of the first bytes, so the new file is sent whole.
    other = safetensors(5, 5000)
    hub.faults.once["x.safetensors"] = [Fault("none"), Fault("truncate", after=1000)]
    sizes = hub.files

    class Changing(dict[str, bytes]):
        requested = 0

        def __getitem__(self, name: str) -> bytes:
            self.requested += 1
            return other if self.requested > 2 else CONTENT

    hub.files = Changing(sizes)
    with pytest.raises(CorruptFileError, match="digest"):
        download(f"{hub.url}/files/x.safetensors", target, sha256=sha256(CONTENT))

    ranges = [request.headers.get("If-Range") for request in hub.requests]
    assert f'"{sha256(CONTENT)}"' in ranges
    assert not (target / "sd").exists()


def test_another_digest_is_refused(hub: Hub, target: Path) -> None:
    with pytest.raises(CorruptFileError, match=f"the source lists {'0' * 64}"):
        download(f"{hub.url}/files/x.safetensors", target, sha256="0" * 64)
    assert not (target / "sd").exists()


def test_a_missing_file_is_reported(hub: Hub, target: Path) -> None:
    with pytest.raises(NotFoundError, match=r"gone\.safetensors: the file does not exist"):
        download(f"{hub.url}/files/gone.safetensors", target, sha256="0" * 64)
