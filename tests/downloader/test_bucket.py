"""S3 as a source: a real third-party server in a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import Session

from downloader.errors import (
    CorruptFileError,
    DownloadError,
    NetworkError,
    NotAuthorisedError,
    NotFoundError,
    exit_of,
)
from downloader.settings import Fetch
from downloader.sources import open_source
from downloader.sources.access import Access
from downloader.sources.bucket import BucketSource, _digest
from downloader.sources.remote import Digest
from downloader.spec import parse_spec
from modelstore import MARKER_NAME, Marker
from tests.downloader.job import Job
from tests.downloader.pipeline_files import pipeline_files, safetensors
from tests.downloader.volume import download, file_names, partial_sizes
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model.safetensors"
SOURCE = "s3://models/team/sd"
SECRET = "TheSecretAccessKey"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.downloader.s3_server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.terminate()


@pytest.fixture(autouse=True)
def _credentials(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in environment(endpoint, tmp_path).items():
        monkeypatch.setenv(name, value)


def environment(endpoint: str, tmp_path: Path) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }


@pytest.fixture
def client(endpoint: str) -> Any:
    client = Session().create_client("s3", region_name="us-east-1", endpoint_url=endpoint)
    try:
        client.create_bucket(Bucket="models")
    except ClientError as error:
        assert "BucketAlreadyOwnedByYou" in str(error)
    for entry in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=entry["Key"])
    return client


def upload(client: Any, files: Mapping[str, bytes], **options: str) -> None:
    for path, content in files.items():
        client.put_object(Bucket="models", Key=f"team/sd/{path}", Body=content, **options)


def test_a_prefix_is_published(client: Any, target: Path) -> None:
    files = pipeline_files()
    upload(client, files | {"unet/": b"", "unet/diffusion_pytorch_model.bin": b"pickle"})
    client.put_object(Bucket="models", Key="team/sd-other/model_index.json", Body=b"{}")

    report = download(SOURCE, target)

    assert file_names(target / "sd") == set(files) | {MARKER_NAME}
    assert all((target / "sd" / path).read_bytes() == content for path, content in files.items())
    assert report.marker.source == SOURCE
    assert report.marker.revision.startswith("sha256:")
    assert download(SOURCE, target).was_published


def test_a_changed_object_is_another_revision(client: Any, target: Path) -> None:
    upload(client, pipeline_files())
    download(SOURCE, target)
    upload(client, {UNET: safetensors(9, 4096)})

    assert not download(SOURCE, target).was_published
    assert (target / "sd" / UNET).read_bytes() == safetensors(9, 4096)


def test_the_digests_are_those_of_the_bucket(client: Any) -> None:
    upload(client, {"plain.json": b"plain"})
    upload(client, {"summed.json": b"summed"}, ChecksumAlgorithm="SHA256")
    with Access(Fetch()) as access:
        source = open_source(parse_spec(SOURCE), access)
        plain, summed = source.list_files(source.resolve())

    assert plain.digest == Digest("md5", "9ce9a0e2a6cd1bda2d65bb5b6ad4ecb5") or (
        plain.digest is not None and plain.digest.algorithm in ("md5", "sha256")
    )
    assert summed.digest is not None
    assert summed.digest.algorithm == "sha256"


@pytest.mark.parametrize(
    ("head", "etag", "algorithm"),
    [
        ({"ChecksumSHA256": "AAAA"}, '"x"', "sha256"),
        ({"ChecksumSHA256": "AAAA-3"}, f'"{"0" * 32}-3"', None),
        ({"ChecksumSHA256": "AAAA", "ChecksumType": "COMPOSITE"}, f'"{"0" * 32}-3"', None),
        ({}, f'"{"0" * 32}"', "md5"),
        ({"ServerSideEncryption": "AES256"}, f'"{"0" * 32}"', "md5"),
        ({"ServerSideEncryption": "aws:kms"}, f'"{"0" * 32}"', None),
        ({}, f'"{"0" * 32}-7"', None),
    ],
)
def test_only_a_digest_of_the_contents_is_one(
    head: dict[str, str], etag: str, algorithm: str | None
) -> None:
    found = _digest(head, etag)
    assert (found.algorithm if found else None) == algorithm


def test_an_object_that_changes_after_the_listing_is_never_mixed(
    client: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client, pipeline_files())
    opened = BucketSource.open

    def change_first(self: BucketSource, revision: str, file: Any, *rest: Any) -> Any:
        if file.path == UNET:
            upload(client, {UNET: safetensors(9, 4096)})
        return opened(self, revision, file, *rest)

    monkeypatch.setattr(BucketSource, "open", change_first)
    with pytest.raises(CorruptFileError, match=r"at 127\.0\.0\.1 changed"):
        download(SOURCE, target)
    assert not (target / "sd").exists()


@pytest.mark.parametrize(
    ("source", "kind"),
    [("s3://models/nothing", NotFoundError), ("s3://no-such-bucket/a", NotFoundError)],
)
def test_a_missing_prefix_or_bucket_is_reported(
    client: Any, target: Path, source: str, kind: type[DownloadError]
) -> None:
    with pytest.raises(kind, match=source):
        download(source, target)


def test_an_unreachable_endpoint_is_a_network_error(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"cannot be reached \(EndpointConnectionError\)"):
        download(SOURCE, target, max_retries=0)


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_requests_are_signed_for_the_region(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "eu-west-1")
    source = BucketSource(parse_spec(SOURCE), Access(Fetch()))  # type: ignore[arg-type]
    assert source._client.meta.region_name == "eu-west-1"


@pytest.mark.parametrize(
    ("status", "kind", "headers"),
    [
        (403, NotAuthorisedError, {}),
        (404, NotFoundError, {}),
        (503, NetworkError, {"Retry-After": "3"}),
        (400, DownloadError, {"x-amz-bucket-region": "eu-west-1"}),
    ],
)
def test_each_refusal_has_its_own_error(
    status: int, kind: type[DownloadError], headers: dict[str, str]
) -> None:
    source = BucketSource(parse_spec(SOURCE), Access(Fetch()))  # type: ignore[arg-type]
    error = source._meaning(status, "Code", headers)
    assert isinstance(error, kind)
    if status == 400:
        assert "set AWS_REGION to eu-west-1" in str(error)
        assert exit_of(error).code == 2


def test_a_killed_download_continues(
    client: Any, job: Job, target: Path, endpoint: str, tmp_path: Path
) -> None:
    # This server has no pace, so the kill comes at an arbitrary byte.
    files = pipeline_files() | {UNET: safetensors(3, 3_000_000)}
    upload(client, files)
    variables = environment(endpoint, tmp_path) | {"DOWNLOADER_SOURCE": SOURCE}
    process = job.start(**variables)
    wait_until(lambda: bool(partial_sizes(target)) or process.poll() is not None)
    process.kill()
    process.communicate()

    result = job.run(**variables)

    assert result.returncode == 0, result.stderr
    assert (target / "sd" / UNET).read_bytes() == files[UNET]
    written = [path for path in target.rglob("*") if path.is_file() and path.suffix == ".json"]
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    assert Marker.read(target / "sd").source == SOURCE
