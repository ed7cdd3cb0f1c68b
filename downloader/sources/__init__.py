"""The places that a model can come from, one module each."""

from __future__ import annotations

from huggingface_hub import HfApi

from downloader.sources.folder import FolderSource
from downloader.sources.huggingface import HubSource, quiet_library
from downloader.sources.remote import Digest, RemoteFile, Source
from downloader.spec import HubSpec, parse_spec

__all__ = ["Digest", "RemoteFile", "Source", "open_source"]


def open_source(uri: str, max_workers: int) -> Source:
    """The source that ``uri`` names; nothing is read yet.

    Raises:
        InvalidSettingError: ``uri`` names none.
    """
    spec = parse_spec(uri)
    if isinstance(spec, HubSpec):
        quiet_library()
        return HubSource(spec, HfApi(), max_workers)
    return FolderSource(spec)
