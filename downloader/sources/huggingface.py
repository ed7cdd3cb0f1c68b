"""A source that is a repository on a Hugging Face hub, through ``huggingface_hub`` alone.

The library reads ``HF_TOKEN`` and ``HF_ENDPOINT``, retries, and keeps in the folder's ``.cache``
which files are finished, so that a run that follows a killed one fetches only the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from downloader.sources.hub_errors import HUB_ERRORS, translated
from downloader.sources.remote import Digest, RemoteFile
from downloader.spec import HubSpec

_RESOLVE_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class HubSource:
    """One revision of one repository; at most ``max_workers`` files are fetched at a time."""

    spec: HubSpec
    api: HfApi
    max_workers: int

    @property
    def uri(self) -> str:
        """The repository and the revision as asked for."""
        return self.spec.uri

    def resolve(self) -> str:
        """The commit that the branch or tag is at; asks nobody where the spec names a commit."""
        if self.spec.is_pinned:
            return self.spec.revision
        with self._errors():
            info = self.api.model_info(
                self.spec.repository,
                revision=self.spec.revision,
                timeout=_RESOLVE_TIMEOUT_SECONDS,
            )
        return str(info.sha)

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Every file of the commit ``revision``."""
        with self._errors():
            tree = self.api.list_repo_tree(self.spec.repository, recursive=True, revision=revision)
            return tuple(_remote_file(entry) for entry in tree if isinstance(entry, RepoFile))

    def fetch(self, revision: str, paths: Sequence[str], into: Path) -> None:
        """Fetch the files of the commit ``revision`` that are not finished in ``into``."""
        _drop_partial_files(into)
        with ThreadPoolExecutor(self.max_workers) as pool:
            fetches = [pool.submit(self._fetch_file, revision, path, into) for path in paths]
            try:
                for fetch in as_completed(fetches):
                    fetch.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch_file(self, revision: str, path: str, into: Path) -> None:
        with self._errors():
            self.api.hf_hub_download(self.spec.repository, path, revision=revision, local_dir=into)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except HUB_ERRORS as error:
            raise translated(error, self.spec, self.api.endpoint) from error


def quiet_library() -> None:
    """Keep the library's warnings, which carry signed addresses, and its bars out of the log."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    disable_progress_bars()


def _remote_file(entry: RepoFile) -> RemoteFile:
    # Git holds only a pointer of a large file, so its blob id says nothing of the contents.
    if entry.lfs is not None:
        return RemoteFile(entry.path, entry.lfs.size, Digest("sha256", entry.lfs.sha256))
    return RemoteFile(entry.path, entry.size, Digest("git-blob", entry.blob_id))


def _drop_partial_files(folder: Path) -> None:
    # The library names them at random and never takes one up again: each kill would cost its bytes.
    for partial in folder.glob(".cache/huggingface/download/**/*.incomplete"):
        partial.unlink()
