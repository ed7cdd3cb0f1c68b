"""Where a model comes from, as one URI: ``hf://owner/name@revision`` or ``file:///path``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from downloader.errors import InvalidSettingError

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")


@dataclass(frozen=True)
class HubSpec:
    """A repository on a hub at a branch, tag or commit."""

    repository: str
    revision: str = DEFAULT_REVISION

    @property
    def uri(self) -> str:
        """The same for every way to write it."""
        return f"hf://{self.repository}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """The revision is a full commit, which never moves."""
        return _COMMIT.fullmatch(self.revision) is not None


@dataclass(frozen=True)
class FolderSpec:
    """A folder in the diffusers layout that this machine can read."""

    path: Path

    @property
    def uri(self) -> str:
        """The same for every way to write it."""
        return self.path.as_uri()


def parse_spec(text: str) -> HubSpec | FolderSpec:
    """Read a source as the operator wrote it.

    Raises:
        InvalidSettingError: names the part that is wrong and the reason.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("hf", "file"):
        raise _invalid(text, "scheme", "it must start with hf:// or file:///")
    return _hub(text, rest) if scheme == "hf" else _folder(text, rest)


def _hub(text: str, rest: str) -> HubSpec:
    repository, at, revision = rest.partition("@")
    parts = repository.split("/")
    if len(parts) != 2:
        raise _invalid(text, "repository", "it must be owner/name")
    for field, part in zip(("owner", "name"), parts, strict=True):
        _check_repository_part(text, field, part)
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _invalid(text, "revision", "after '@' it must be a branch, a tag or a commit")
    return HubSpec(repository, revision if at else DEFAULT_REVISION)


def _check_repository_part(text: str, field: str, part: str) -> None:
    if not _NAME.fullmatch(part):
        raise _invalid(
            text, field, "it must be letters, digits, '_', '.' and '-', no '.' or '-' at the ends"
        )
    if ".." in part or "--" in part or part.endswith(".git"):
        raise _invalid(text, field, "it must not contain '..' or '--' nor end in '.git'")


def _folder(text: str, rest: str) -> FolderSpec:
    path = unquote(rest)
    if not path.startswith("/"):
        raise _invalid(text, "path", "it must be absolute, as in file:///mnt/source")
    if "\0" in path or ".." in path.split("/"):
        raise _invalid(text, "path", "it must not contain '..'")
    return FolderSpec(Path(path))


def _invalid(text: str, field: str, reason: str) -> InvalidSettingError:
    return InvalidSettingError(f"source {text!r}: the {field} is wrong: {reason}")
