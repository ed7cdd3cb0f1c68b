"""Where weights come from, as one URI: a repository, a folder, a bucket's prefix or a single file.

``hf://owner/name@revision``, ``file:///path``, ``s3://bucket/prefix``, ``https://host/x.safetensors``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from downloader.errors import InvalidSettingError

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
# git check-ref-format, without "@", which separates the revision.
_REVISION = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\@]+")
_NOT_IN_REVISION = re.compile(r"^[-/]|(?:^|/)\.|\.\.|//|[./]$|\.lock(?:/|$)")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+ -]*\.safetensors")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class HubSpec:
    """A repository on a hub at a branch, tag or commit."""

    repository: str
    revision: str = DEFAULT_REVISION

    @property
    def uri(self) -> str:
        """The canonical form."""
        return f"hf://{self.repository}@{self.revision}"

    @property
    def place(self) -> str:
        """The source without its revision."""
        return f"hf://{self.repository}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit, which never moves."""
        return _COMMIT.fullmatch(self.revision) is not None


@dataclass(frozen=True)
class FolderSpec:
    """A local folder in the diffusers layout."""

    path: Path

    @property
    def uri(self) -> str:
        """The canonical form."""
        return self.path.as_uri()

    @property
    def place(self) -> str:
        """As ``uri``: a folder has no revisions."""
        return self.uri


@dataclass(frozen=True)
class BucketSpec:
    """The objects of an S3 bucket below a prefix; ``prefix`` has no slash at either end."""

    bucket: str
    prefix: str

    @property
    def uri(self) -> str:
        """The canonical form."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def place(self) -> str:
        """As ``uri``: a prefix has no revisions."""
        return self.uri


@dataclass(frozen=True)
class FileSpec:
    """One safetensors file on a web server, identified by its digest.

    The query of ``url`` may contain a secret, so only ``uri`` is ever shown.
    """

    url: str = field(repr=False)
    sha256: str

    @property
    def uri(self) -> str:
        """The address without its query."""
        return self.url.partition("?")[0]

    @property
    def place(self) -> str:
        """As ``uri``: the digest is the revision."""
        return self.uri

    @property
    def file_name(self) -> str:
        """The name of the file on the volume."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name


SourceSpec = HubSpec | FolderSpec | BucketSpec | FileSpec


def parse_spec(text: str, sha256: str = "") -> SourceSpec:
    """Parse a source; ``sha256`` is the digest of a single file.

    Raises:
        InvalidSettingError: names the invalid part and the reason.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("hf", "file", "s3", "https", "http"):
        raise _invalid(text, "scheme", "it must start with hf://, file:///, s3:// or https://")
    if scheme in ("https", "http"):
        return _file(text, sha256)
    if sha256:
        raise _invalid(text, "sha256", "it is only for the single file of an https:// source")
    return {"hf": _hub, "file": _folder, "s3": _bucket}[scheme](text, rest)


def _hub(text: str, rest: str) -> SourceSpec:
    repository, at, revision = rest.partition("@")
    parts = repository.split("/")
    if len(parts) != 2:
        raise _invalid(text, "repository", "it must be owner/name")
    for name, part in zip(("owner", "name"), parts, strict=True):
        _check_repository_part(text, name, part)
    if at and (not _REVISION.fullmatch(revision) or _NOT_IN_REVISION.search(revision)):
        raise _invalid(text, "revision", "after '@' it must be a branch, a tag or a commit")
    return HubSpec(repository, revision if at else DEFAULT_REVISION)


def _check_repository_part(text: str, field_name: str, part: str) -> None:
    if not _NAME.fullmatch(part):
        raise _invalid(
            text,
            field_name,
            "it must be letters, digits, '_', '.' and '-', no '.' or '-' at the ends",
        )
    if ".." in part or "--" in part or part.endswith(".git"):
        raise _invalid(text, field_name, "it must not contain '..' or '--' nor end in '.git'")


def _folder(text: str, rest: str) -> SourceSpec:
    path = unquote(rest)
    if not path.startswith("/"):
        raise _invalid(text, "path", "it must be absolute, as in file:///mnt/source")
    if "\0" in path or ".." in path.split("/"):
        raise _invalid(text, "path", "it must not contain '..'")
    return FolderSpec(Path(path))


def _bucket(text: str, rest: str) -> SourceSpec:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise _invalid(text, "bucket", "it must be 2 to 63 letters, digits, '.', '_' and '-'")
    parts = prefix.strip("/").split("/") if prefix.strip("/") else []
    if "\0" in prefix or not {"", ".", ".."}.isdisjoint(parts):
        raise _invalid(text, "prefix", "it must not contain '//', '.' or '..'")
    return BucketSpec(bucket, "/".join(parts))


def _file(text: str, sha256: str) -> SourceSpec:
    address = urlsplit(text)
    if not address.hostname:
        raise _invalid(text, "host", "it is missing")
    if address.username or address.password:
        raise _invalid(text, "address", "it must not contain a user or a password")
    if address.scheme == "http" and address.hostname not in _LOOPBACK:
        raise _invalid(text, "scheme", "http:// is only for this machine; use https://")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256.lower()):
        raise _invalid(text, "sha256", "it must be the file's digest, 64 hexadecimal digits")
    spec = FileSpec(text.partition("#")[0], sha256.lower())
    if not _FILE_NAME.fullmatch(spec.file_name):
        raise _invalid(text, "path", "it must end in the name of a .safetensors file")
    return spec


def _invalid(text: str, part: str, reason: str) -> InvalidSettingError:
    # The message contains neither a password nor a signed query.
    shown = re.sub(r"^(https?://)[^/]*@", r"\1", text)
    return InvalidSettingError(
        f"source {shown.partition('?')[0]!r}: the {part} is not valid: {reason}"
    )
