"""A real S3 server with one bucket, and what a test sees of it."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import httpx
from botocore.session import Session

from tests.serving import ROOT

BUCKET = "pictures"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "TheSecretAccessKey",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Store:
    """The server for the time of its context; the port may be known before it starts."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        return Session().create_client("s3", region_name="us-east-1", endpoint_url=self.url)

    def require_known_keys(self, *, required: bool) -> None:
        """Refuse all requests, because the server has no users, or none of them."""
        free = b"0" if required else b"inf"
        httpx.post(self.url + "/moto-api/reset-auth", content=free).raise_for_status()

    def object_keys(self) -> list[str]:
        """The keys of all objects."""
        found = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [entry["Key"] for entry in found]

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "ignore", "-m", "tests.downloader.s3_server"]
        self._process = subprocess.Popen(
            [*command, str(self.port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
