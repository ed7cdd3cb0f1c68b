"""An S3 bucket for the pictures, at any endpoint that implements the S3 API.

``botocore`` finds credentials as all AWS tools do, and blocks. So each call runs on a thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from uuid import uuid4

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.session import Session

from jobs.errors import BucketError, BucketRefusedError
from jobs.settings import Settings

# Links of temporary credentials end with them.
LINK_SECONDS = 3600
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_THREADS = 8
_DEFAULT_REGION = "us-east-1"
# An object never changes, but its URL is only for those who know it.
_CACHE_CONTROL = "private, max-age=3600, immutable"


class Bucket:
    """The bucket and the prefix of a URL. Every method raises BucketError without an answer."""

    def __init__(self, settings: Settings) -> None:
        """Connect later, on first use."""
        self.url = settings.bucket_url.rstrip("/")
        self._addressing = settings.s3_addressing
        self._threads = ThreadPoolExecutor(_THREADS, "bucket")

    def close(self) -> None:
        """Start no further calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def location(self, job_id: str, name: str) -> str:
        """The URI of an object of a job."""
        return f"{self.url}/{job_id}/{name}"

    async def check(self) -> None:
        """Write and delete a small object, as the worker does with pictures.

        Raises:
            BucketRefusedError: the configuration is invalid, or a permission is missing.
        """
        location = self.location("check", uuid4().hex)
        await self.put(location, b"check", "text/plain", hashlib.sha256(b"check").hexdigest())
        await self.delete(location)

    def put(
        self, location: str, content: bytes, media_type: str, digest: str
    ) -> asyncio.Future[None]:
        """Store an object; the bucket verifies its SHA-256 ``digest``, in hexadecimal form.

        Shield the future: a call that has begun continues if the future is cancelled.
        """
        checksum = base64.b64encode(bytes.fromhex(digest)).decode()
        return self._run(
            lambda: self._client.put_object(
                **_object(location),
                Body=content,
                ContentType=media_type,
                CacheControl=_CACHE_CONTROL,
                ChecksumSHA256=checksum,
            )
        )

    def delete(self, location: str) -> asyncio.Future[None]:
        """Delete an object, if it exists.

        One by one, because not every store that implements the API deletes several at once.
        """
        return self._run(lambda: self._client.delete_object(**_object(location)))

    async def link(self, location: str, method: str = "GET") -> str:
        """A URL that needs no key, valid for ``LINK_SECONDS``, for one HTTP method.

        It takes half a millisecond, or a request if temporary credentials have to be renewed.
        Uploads must not delay it, so it has another thread.
        """
        return await asyncio.to_thread(self._link, location, method)

    def _link(self, location: str, method: str) -> str:
        operation = "head_object" if method == "HEAD" else "get_object"
        with self._errors():
            return str(
                self._client.generate_presigned_url(
                    operation, Params=_object(location), ExpiresIn=LINK_SECONDS
                )
            )

    def _run(self, call: Callable[[], object]) -> asyncio.Future[None]:
        def checked() -> None:
            with self._errors():
                call()

        return asyncio.get_running_loop().run_in_executor(self._threads, checked)

    @cached_property
    def _client(self) -> Any:
        logging.getLogger("botocore").setLevel(logging.WARNING)
        # It logs a trace in addition to the error that it raises.
        logging.getLogger("botocore.credentials").setLevel(logging.ERROR)
        session = Session()
        if session.get_credentials() is None:
            raise BucketRefusedError(f"{self.url}: no credentials found")
        style = self._addressing
        if style == "auto" and _has_own_endpoint():
            style = "path"  # few endpoints have a DNS name for each bucket
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": style},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_ANSWER_SECONDS,
            retries={"total_max_attempts": 1},
            max_pool_connections=_THREADS,
        )
        # ``botocore`` reads only AWS_DEFAULT_REGION; AWS's other tools read AWS_REGION first.
        if region := os.environ.get("AWS_REGION"):
            session.set_config_variable("region", region)
        region = session.get_config_variable("region") or _DEFAULT_REGION
        # ``botocore`` does not read SSL_CERT_FILE.
        certificates = session.get_config_variable("ca_bundle") or os.environ.get("SSL_CERT_FILE")
        return session.create_client(
            "s3", region_name=region, config=config, verify=certificates or None
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._meaning(error.response) from error
        except (BotoConnectionError, HTTPClientError) as error:
            raise BucketError(f"{self.url}: cannot be reached: {error}") from error
        except (BotoCoreError, ValueError, OSError) as error:
            # Their texts name configuration variables and files.
            raise BucketRefusedError(f"{self.url}: {error}") from error

    def _meaning(self, response: Mapping[str, Any]) -> BucketError:
        answer = response.get("ResponseMetadata", {})
        status = int(answer.get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", ""))
        text = f"{self.url}: the endpoint answered {status} {code}".rstrip()
        region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if status in (301, 307, 400) and region:
            return BucketRefusedError(
                f"{text}: set AWS_REGION to {region}, the region of the bucket"
            )
        if status in (401, 403):
            return BucketRefusedError(f"{text}: check the credentials and the bucket policy")
        if status == 404:
            return BucketRefusedError(f"{text}: the bucket does not exist")
        if status >= 500 or status in (408, 429):
            return BucketError(text)
        return BucketRefusedError(text)


def _has_own_endpoint() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _object(location: str) -> dict[str, str]:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}
