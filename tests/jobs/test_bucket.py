"""Pictures in a bucket: a real S3 server, and the running program with each storage."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from demo.run import free_port
from jobs.api.service import Service
from jobs.attempt import Attempt
from jobs.bucket import Bucket
from jobs.job import Job, Picture
from jobs.predictor_client import PredictorClient
from jobs.server import application
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.upload import ExpiredUploads, Upload
from tests.jobs.jobs_process import JobsServer
from tests.jobs.receiver import SECRET, Receiver
from tests.jobs.s3_store import BUCKET, CREDENTIALS, S3Store
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.jobs.storages import Open, job, picture, play
from tests.jobs.test_access import line
from tests.jobs.test_arguments import run
from tests.serving import ROOT
from tests.waiting import wait_until

URL = f"s3://{BUCKET}/team/jobs"
SETTINGS = Settings(bucket_url=URL)


@pytest.fixture(scope="module")
def store() -> Iterator[S3Store]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with S3Store() as running:
            patch.setenv("AWS_ENDPOINT_URL", running.url)
            yield running


@pytest.fixture
def bucket(store: S3Store) -> Iterator[Bucket]:
    """The bucket without objects."""
    for key in store.object_keys():
        store.client.delete_object(Bucket=BUCKET, Key=key)
    opened = Bucket(SETTINGS)
    yield opened
    opened.close()


def expected(predictor: ScriptedPredictor, document: dict[str, Any], prompt: str) -> bytes:
    return predictor.picture_of({"prompt": prompt, "seed": document["seed"]})


def test_callers_are_redirected_to_the_bucket(
    bucket: Bucket,
    store: S3Store,
    storage_flags: dict[str, str],
    predictor: ScriptedPredictor,
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line("alice", "sk-a"))
    flags = storage_flags | {"bucket_url": URL + "/", "api_keys_file": str(keys)}
    caller = {"authorization": "Bearer sk-a"}
    with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
        body = {"prompt": "a red star"}
        headers = caller | {"prefer": "wait=60"}
        posted = server.request("POST", "/v1/jobs", json=body, headers=headers).json()
        path = f"/v1/jobs/{posted['id']}"
        read = server.request("GET", path, headers=caller).json()
        listed = server.request("GET", "/v1/jobs", headers=caller).json()["jobs"]
        events = server.request("GET", path + "/events", headers=caller).text
        redirect = server.request("GET", path + "/pictures/0", headers=caller)
        head = server.request("HEAD", path + "/pictures/0", headers=caller)
        result = server.request("GET", f"/result/{posted['id']}", headers=caller)
        missing = server.request("GET", path + "/pictures/1", headers=caller)
        stranger = server.request("GET", path + "/pictures/0")
    content = expected(predictor, posted, "a red star")
    link = redirect.headers["location"]
    picture = httpx.get(link)
    etag = picture.headers["etag"]

    assert (redirect.status_code, result.status_code, head.status_code) == (307, 307, 307)
    assert redirect.headers["cache-control"] == "no-store"
    assert (missing.status_code, stranger.status_code) == (404, 401)
    assert picture.content == content
    assert picture.headers["content-type"] == "image/png"
    assert "private" in picture.headers["cache-control"]
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["3600"]
    part = httpx.get(link, headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, content[2:6])
    assert httpx.get(link, headers={"if-none-match": etag}).status_code == 304
    assert httpx.head(head.headers["location"]).headers["content-length"] == str(len(content))
    assert "sk-a" not in link
    final = json.loads(events.strip().split("data: ")[-1])
    for document in (posted, read, final):
        assert httpx.get(document["pictures"][0]["presigned_url"]).content == content
    assert httpx.get(result.headers["location"]).content == content
    assert "presigned_url" not in json.dumps(listed)
    assert [key.rpartition("/")[0] for key in store.object_keys()] == [f"team/jobs/{posted['id']}"]


def test_webhooks_have_no_links_and_blocked_pictures_no_objects(
    bucket: Bucket, store: S3Store, predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"bucket_url": URL, "sqlite_path": tmp_path / "jobs.sqlite3"}
    flags |= {"webhook_secrets": SECRET, "webhook_networks": "127.0.0.1/32"}
    with (
        Receiver() as receiver,
        JobsServer.running(
            tmp_path / "log", predictor.url, **flags, webhook_allow_http=True
        ) as server,
    ):
        made = server.submit({"prompt": "a red star", "webhook": receiver.url("/ok")})
        blocked = server.submit({"prompt": "blocked"})
        document = server.wait_for_status(blocked["id"], "succeeded")
        refused = server.request("GET", f"/v1/jobs/{blocked['id']}/pictures/0")
        wait_until(lambda: len(receiver.received("/ok", "job.completed")) == 1)
    (completed,) = receiver.received("/ok", "job.completed")

    assert completed.document["data"]["pictures"][0]["url"].startswith(f"/v1/jobs/{made['id']}")
    assert b"presigned_url" not in completed.body
    assert document["pictures"][0]["presigned_url"] is None
    assert refused.status_code == 404
    assert [key.split("/")[2] for key in store.object_keys()] == [made["id"]]


def test_a_job_waits_for_the_bucket(
    store: S3Store, predictor: ScriptedPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = S3Store(free_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", later.url)
    flags = {"bucket_url": URL, "sqlite_path": tmp_path / "jobs.sqlite3"}
    with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
        submitted = server.submit({"prompt": "a red star"})
        assert server.wait_for_log("a picture is not uploaded: .*cannot be reached")
        server.wait_for_status(submitted["id"], "in_progress")
        with later:
            ended = server.wait_for_status(submitted["id"], "succeeded")
            content = httpx.get(ended["pictures"][0]["presigned_url"]).content

    assert content == expected(predictor, submitted, "a red star")
    assert ended["tries"] == 1
    assert predictor.prompts() == ["a red star"], "the picture is not made again"


def test_a_job_waits_for_the_access_to_the_bucket(
    bucket: Bucket, store: S3Store, predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags = {"bucket_url": URL, "sqlite_path": tmp_path / "jobs.sqlite3"}
    with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
        store.require_known_keys(required=True)
        try:
            submitted = server.submit({"prompt": "a red star"})
            failure = server.wait_for_log("ERROR job (.*): a picture is not uploaded: (.*)")
            refused = run(f"--bucket_url={URL}", f"--sqlite_path={tmp_path / 'other'}")
        finally:
            store.require_known_keys(required=False)
        ended = server.wait_for_status(submitted["id"], "succeeded")
    reason = "answered 403 InvalidAccessKeyId: check the credentials and the bucket policy"

    assert failure.groups() == (submitted["id"], f"{URL}: the endpoint {reason}")
    assert refused.returncode == 1
    assert refused.stderr == f"jobs: bucket_url: {URL}: the endpoint {reason}\n"
    assert ended["tries"] == 1


def test_without_credentials_a_job_is_readable_and_its_picture_is_not(
    make_storage: Open, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = Bucket(SETTINGS)

    async def scenario(storage: Storage) -> None:
        await finish(storage, bucket, "a")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        transport = httpx.ASGITransport(application(Service(storage, SETTINGS, without)))
        async with httpx.AsyncClient(transport=transport, base_url="http://any") as client:
            read = await client.get("/v1/jobs/a")
            picture = await client.get("/v1/jobs/a/pictures/0")
        assert [one["presigned_url"] for one in read.json()["pictures"]] == [None, None]
        assert picture.status_code == 503
        assert picture.json() == {"error": "the bucket of the pictures cannot be used now"}
        assert picture.headers["retry-after"] == "5"

    play(make_storage, scenario)
    without.close()


def test_without_bucket_url_a_picture_in_a_bucket_is_gone(
    make_storage: Open, bucket: Bucket
) -> None:
    async def scenario(storage: Storage) -> None:
        await finish(storage, bucket, "a")
        transport = httpx.ASGITransport(application(Service(storage, Settings())))
        async with httpx.AsyncClient(transport=transport, base_url="http://any") as client:
            read = await client.get("/v1/jobs/a")
            picture = await client.get("/v1/jobs/a/pictures/0")
        assert "presigned_url" not in read.json()["pictures"][0]
        assert picture.status_code == 410

    play(make_storage, scenario)


@pytest.mark.parametrize(
    ("url", "variables", "reason"),
    [
        (
            "s3://nowhere/team",
            {},
            "s3://nowhere/team: the endpoint answered 404 NoSuchBucket: the bucket does not exist",
        ),
        (URL, {"AWS_ACCESS_KEY_ID": ""}, f"{URL}: no credentials found"),
        (URL, {"AWS_ENDPOINT_URL": "here"}, f"{URL}: Invalid endpoint: here"),
    ],
)
def test_the_program_does_not_start_with_a_wrong_bucket(
    store: S3Store,
    url: str,
    variables: dict[str, str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = run(f"--bucket_url={url}", f"--sqlite_path={tmp_path / 'jobs.sqlite3'}")

    assert ended.returncode == 1
    assert ended.stderr == f"jobs: bucket_url: {reason}\n"


async def finish(storage: Storage, bucket: Bucket, job_id: str, expires_in: float = 600) -> None:
    await storage.submit(job(job_id, expires_in=expires_in))
    claim = await storage.claim("sd", 60)
    assert claim
    uploaded = await Upload(bucket, job_id).run([picture(b"red"), picture(b"blue")])
    assert await storage.finish(claim, uploaded)


def names(keys: list[str]) -> set[str]:
    return {key.split("/")[2] for key in keys}


def test_the_storage_has_no_bytes(make_storage: Open, bucket: Bucket, store: S3Store) -> None:
    async def scenario(storage: Storage) -> None:
        await finish(storage, bucket, "a")
        found = await storage.read("a")
        assert found
        assert [(one.size, one.media_type) for one in found.pictures] == [
            (3, "image/png"),
            (4, "image/png"),
        ]
        assert found.pictures[0].digest == Picture("image/png", b"red", {}).stored().digest
        assert all(one.location.startswith(f"{URL}/a/") for one in found.pictures)
        assert not await storage.picture("a", 0)

    play(make_storage, scenario)
    assert len(store.object_keys()) == 2


def test_objects_are_deleted_before_the_record(
    make_storage: Open, bucket: Bucket, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = Bucket(SETTINGS)

    async def scenario(storage: Storage) -> None:
        await finish(storage, bucket, "old", expires_in=0.2)
        await finish(storage, bucket, "new")
        await storage.submit(job("plain", expires_in=0.01))
        await storage.cancel("plain")
        async with asyncio.timeout(30):
            while not await storage.expired_uploads() or await storage.read("plain"):
                await storage.sweep()
                await asyncio.sleep(0.01)
        assert await storage.read("old"), "the sweep keeps a record with objects"
        # A bucket reads the variables on its first use.
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        assert not await ExpiredUploads(storage, unreachable).delete_some()
        await storage.sweep()
        assert await storage.read("old"), "the bucket does not answer"
        assert names(store.object_keys()) == {"old", "new"}

        assert await ExpiredUploads(storage, bucket).delete_some()
        assert names(store.object_keys()) == {"new"}
        await storage.sweep()
        assert await storage.read("old") is None
        assert await storage.read("new")
        assert await storage.expired_uploads() == []

    play(make_storage, scenario)
    unreachable.close()


def test_records_of_an_earlier_bucket_expire_too(make_storage: Open, bucket: Bucket) -> None:
    async def scenario(storage: Storage) -> None:
        await finish(storage, bucket, "old", expires_in=0.01)
        async with asyncio.timeout(30):
            while await storage.read("old"):
                await ExpiredUploads(storage, None).delete_some()
                await storage.sweep()
                await asyncio.sleep(0.01)

    play(make_storage, scenario)


def test_a_late_try_changes_nothing(make_storage: Open, bucket: Bucket, store: S3Store) -> None:
    async def scenario(storage: Storage) -> None:
        await finish(storage, bucket, "a")
        late = Upload(bucket, "a")
        await late.run([picture(b"other bytes")])
        record = await storage.read("a")
        assert record
        await late.discard(record)
        keys = [one.location.removeprefix(f"s3://{BUCKET}/") for one in record.pictures]
        assert sorted(store.object_keys()) == sorted(keys)
        body = store.client.get_object(Bucket=BUCKET, Key=keys[0])["Body"]
        assert body.read() == b"red"

    play(make_storage, scenario)


def test_a_link_is_for_one_method(bucket: Bucket) -> None:
    """The signature contains the method, which this server does not verify."""

    async def links() -> set[str]:
        return {await bucket.link(f"{URL}/a/0.png", method) for method in ("GET", "HEAD")}

    assert len(asyncio.run(links())) == 2


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-west-1"),
        ({}, "us-east-1"),
    ],
)
def test_a_link_is_signed_for_the_region(
    variables: dict[str, str], region: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not verify the region, but Amazon S3 does."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    link = asyncio.run(bucket.link(f"{URL}/a/0.png"))

    (scope,) = parse_qs(urlsplit(link).query)["X-Amz-Credential"]
    assert scope.split("/")[2:] == [region, "s3", "aws4_request"]


class CancelledMeanwhile(Bucket):
    """A bucket whose user cancels the job as soon as the picture is there."""

    storage: Storage

    def put(self, *arguments: Any) -> asyncio.Future[None]:
        async def call() -> None:
            await super(CancelledMeanwhile, self).put(*arguments)
            await self.storage.cancel("a")

        return asyncio.ensure_future(call())


def test_a_cancelled_job_leaves_no_objects(
    make_storage: Open, bucket: Bucket, store: S3Store, predictor: ScriptedPredictor
) -> None:
    async def scenario(storage: Storage) -> None:
        cancelling = CancelledMeanwhile(SETTINGS)
        cancelling.storage = storage
        client = PredictorClient(Settings(predictor_url=predictor.url))
        await storage.submit(job("a", body=b'{"prompt": "a red star", "seed": 7}'))
        claim = await storage.claim("sd", 60)
        assert claim
        attempt = Attempt(
            claim,
            storage,
            client,
            60,
            bucket=cancelling,
            on_accepted=lambda: None,
            on_refused=lambda: None,
        )
        await attempt.run()
        await client.close()
        cancelling.close()
        ended = await storage.read("a")
        assert isinstance(ended, Job)
        assert ended.status == "cancelled"

    play(make_storage, scenario)
    assert predictor.prompts() == ["a red star"]
    assert store.object_keys() == []


def test_botocore_is_imported_only_with_a_bucket() -> None:
    code = "import sys, jobs.server; sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
