"""A source that is a prefix of an S3 bucket, at any endpoint that implements the S3 API.

``botocore`` finds credentials (variables, files, web identity, instance roles), lists, and signs
addresses; our own HTTP client fetches the bytes. Each request requires the ETag of the listing, and
the contents are verified by SHA-256 or MD5 where the bucket has one.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx2
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.session import Session

from downloader.errors import (
    DownloadError,
    InvalidSettingError,
    NetworkError,
    NotAuthorisedError,
    NotFoundError,
    TransientError,
)
from downloader.sources.access import Access
from downloader.sources.http import is_transient, retry_after
from downloader.sources.network_variables import variables_with
from downloader.sources.remote import ByteStream, Digest, RemoteFile
from downloader.spec import BucketSpec
from downloader.workers import Stop, run_all

_ADDRESS_SECONDS = 3600
_DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class BucketSource:
    """The objects below a prefix; a key that ends in a slash stands for a folder and is skipped."""

    spec: BucketSpec
    access: Access

    @property
    def uri(self) -> str:
        """The bucket and the prefix."""
        return self.spec.uri

    def resolve(self) -> str:
        """A digest of all keys, sizes and ETags: equal objects are the same revision."""
        lines = (f"{path}\0{size}\0{etag}\n" for path, (size, etag) in self._listing.items())
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """The objects as ``resolve`` listed them, with their digests."""
        calls = [
            lambda path=path, size=size, etag=etag: self._describe(path, size, etag)
            for path, (size, etag) in self._listing.items()
        ]
        return tuple(run_all(calls, self.access.settings.max_workers, Stop()))

    @contextmanager
    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> Iterator[ByteStream]:
        """See ``Source.open``; each call signs a new address."""
        with self._errors():
            url = self._client.generate_presigned_url(
                "get_object", Params=self._object(file.path), ExpiresIn=_ADDRESS_SECONDS
            )
        headers = {"If-Match": file.etag} if file.etag else {}
        with self.access.http.open(
            url, file, offset, None, headers=headers, refused=self._refused
        ) as stream:
            yield stream

    @cached_property
    def _listing(self) -> Mapping[str, tuple[int, str]]:
        """Size and ETag by path below the prefix, sorted."""
        prefix = f"{self.spec.prefix}/" if self.spec.prefix else ""
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.spec.bucket, Prefix=prefix
            )
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        found = {
            entry["Key"].removeprefix(prefix): (entry["Size"], entry["ETag"])
            for entry in entries
            if not entry["Key"].endswith("/")
        }
        if not found:
            raise NotFoundError(f"{self.uri}: the prefix has no objects")
        return dict(sorted(found.items()))

    def _describe(self, path: str, size: int, etag: str) -> RemoteFile:
        with self._errors():
            head = self._client.head_object(
                **self._object(path), IfMatch=etag, ChecksumMode="ENABLED"
            )
        return RemoteFile(path, size, _digest(head, etag), etag)

    def _object(self, path: str) -> dict[str, str]:
        return {"Bucket": self.spec.bucket, "Key": f"{self.spec.prefix}/{path}".lstrip("/")}

    @cached_property
    def _client(self) -> Any:
        # It logs a trace in addition to the error that it raises.
        logging.getLogger("botocore.credentials").setLevel(logging.ERROR)
        settings, session = self.access.settings, Session()
        own_endpoint = bool(
            os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )
        style = settings.s3_addressing
        if style == "auto" and own_endpoint:
            style = "path"  # few endpoints have a DNS name for each bucket
        # Without credentials the bucket may still be public.
        signature = "s3v4" if session.get_credentials() else UNSIGNED
        config = Config(
            signature_version=signature,
            s3={"addressing_style": style},
            connect_timeout=settings.stall_seconds,
            read_timeout=settings.stall_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=settings.max_workers,
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
            answer = error.response.get("ResponseMetadata", {})
            code = str(error.response.get("Error", {}).get("Code", ""))
            headers = httpx2.Headers(answer.get("HTTPHeaders", {}))
            raise self._meaning(int(answer.get("HTTPStatusCode", 0)), code, headers) from error
        except (BotoConnectionError, HTTPClientError) as error:
            raise TransientError(
                f"{self.uri}: cannot be reached ({type(error).__name__})"
            ) from error
        except NoCredentialsError as error:
            raise NotAuthorisedError(f"{self.uri}: no credentials found") from error
        except (BotoCoreError, ValueError) as error:
            # Their texts name configuration variables and files.
            raise InvalidSettingError(f"{self.uri}: {error}") from error
        except OSError as error:
            # A file of credentials: ``botocore`` wraps all errors of the network.
            file = str(error.filename)
            names = "".join(f"{name}: " for name in variables_with(file))
            raise InvalidSettingError(f"{self.uri}: {names}{file}: {error.strerror}") from error

    def _refused(self, response: httpx2.Response) -> DownloadError:
        code = re.search(r"<Code>(\w+)</Code>", response.text)
        return self._meaning(response.status_code, code[1] if code else "", response.headers)

    def _meaning(self, status: int, code: str, headers: Mapping[str, str]) -> DownloadError:
        answer = f"{self.uri}: the endpoint answered {status} {code}".rstrip()
        region = headers.get("x-amz-bucket-region")
        if status in (301, 307, 400) and region:
            return InvalidSettingError(
                f"{answer}: set AWS_REGION to {region}, the region of the bucket"
            )
        if status in (401, 403):
            return NotAuthorisedError(f"{answer}: check the credentials and the bucket policy")
        if status == 404:
            return NotFoundError(f"{answer}: the bucket or object does not exist")
        if is_transient(status):
            return TransientError(answer, retry_after(headers))
        if status == 412:
            return TransientError(f"{answer}: an object changed during the download")
        return NetworkError(answer)


def _digest(head: Mapping[str, Any], etag: str) -> Digest | None:
    """The digest of an object's contents if the bucket reports one (S3's HeadObject)."""
    checksum = head.get("ChecksumSHA256")
    # The checksum of a multipart upload is a digest of digests, followed by the number of parts.
    if checksum and "-" not in checksum and head.get("ChecksumType") != "COMPOSITE":
        return Digest("sha256", base64.b64decode(checksum).hex())
    is_md5 = re.fullmatch(r'"[0-9a-f]{32}"', etag)
    if is_md5 and head.get("ServerSideEncryption") in (None, "AES256"):
        return Digest("md5", etag.strip('"'))
    return None
