"""The files of a commit on a hub: from its tree or, on a mirror without trees, from its siblings.

Some mirrors implement only the calls that ``snapshot_download`` once made: ``revision`` with the
names of the files (``siblings``), and HEAD for the metadata of each file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoSibling

from downloader.settings import SourceSettings
from downloader.sources.remote import FETCHED_SUFFIXES, Digest, RemoteFile
from downloader.workers import Stop, run_all

_WITHOUT_TREES = (404, 405)


@dataclass(frozen=True)
class HubListing:
    """The listing of ``repository`` at the commit ``revision``."""

    api: HfApi
    settings: SourceSettings
    repository: str
    revision: str

    def files(self) -> tuple[RemoteFile, ...]:
        """Every file.

        Raises:
            HfHubHTTPError: the hub refuses.
            ValueError: the answer is not that of a hub.
        """
        try:
            tree = self.api.list_repo_tree(self.repository, recursive=True, revision=self.revision)
            return _checked(_of_tree(entry) for entry in tree if isinstance(entry, RepoFile))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except HfHubHTTPError as error:
            if error.response.status_code not in _WITHOUT_TREES:
                raise
        return self._of_siblings()

    def _of_siblings(self) -> tuple[RemoteFile, ...]:
        info = self.api.model_info(
            self.repository,
            revision=self.revision,
            files_metadata=True,
            timeout=self.settings.stall_seconds,
        )
        if info.siblings is None:
            raise ValueError("the hub lists no files")
        calls = [partial(self._of_sibling, sibling) for sibling in info.siblings]
        return _checked(run_all(calls, self.settings.max_workers, Stop()))

    def _of_sibling(self, sibling: RepoSibling) -> RemoteFile:
        path, lfs = sibling.rfilename, sibling.lfs
        if lfs is not None:
            return RemoteFile(path, lfs.size, Digest("sha256", lfs.sha256))
        if sibling.size is not None and sibling.blob_id is not None:
            return RemoteFile(path, sibling.size, Digest("git-blob", sibling.blob_id))
        if PurePosixPath(path).suffix not in FETCHED_SUFFIXES:
            return RemoteFile(path, 0, None)  # never fetched; a request may make a mirror fetch it
        return self._of_head(path)

    def _of_head(self, path: str) -> RemoteFile:
        url = hf_hub_url(self.repository, path, revision=self.revision, endpoint=self.api.endpoint)
        found = get_hf_file_metadata(
            url,
            token=self.api.token,
            timeout=self.settings.stall_seconds,
            endpoint=self.api.endpoint,
        )
        if found.size is None:
            raise ValueError("the hub does not report the size of a file")
        # The ETag of a large file is its SHA-256; that of any other file may be any string.
        is_sha256 = found.etag is not None and re.fullmatch(r"[0-9a-f]{64}", found.etag)
        digest = Digest("sha256", str(found.etag)) if is_sha256 else None
        return RemoteFile(path, found.size, digest, found.etag)


def _checked(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files, if their fields have the types of a listing; the library does not check them."""
    found: dict[str, RemoteFile] = {}
    for file in files:
        digest = file.digest.value if file.digest else ""
        texts, size = (file.path, digest, file.etag or ""), file.size
        if not all(isinstance(text, str) for text in texts) or type(size) is not int or size < 0:
            raise ValueError("the hub lists a file without a valid path, size and digest")
        # Also ends a listing whose next page is one of its earlier pages.
        if file.path in found:
            raise ValueError("the hub lists a file twice")
        found[file.path] = file
    return tuple(found.values())


def _of_tree(entry: RepoFile) -> RemoteFile:
    # For a large file git stores only a pointer, so the blob id does not identify the contents.
    if entry.lfs is not None:
        return RemoteFile(entry.path, entry.lfs.size, Digest("sha256", entry.lfs.sha256))
    return RemoteFile(entry.path, entry.size, Digest("git-blob", entry.blob_id))
