"""The places that a model can come from, one module each."""

from __future__ import annotations

from downloader.sources.access import Access
from downloader.sources.folder import FolderSource
from downloader.sources.remote import ByteStream, Digest, RemoteFile, Source
from downloader.sources.single_file import SingleFileSource
from downloader.spec import BucketSpec, FileSpec, FolderSpec, SourceSpec

__all__ = ["Access", "ByteStream", "Digest", "RemoteFile", "Source", "open_source"]


def open_source(spec: SourceSpec, access: Access) -> Source:
    """The source that ``spec`` names; nothing is read yet, and no library loaded for another."""
    if isinstance(spec, FolderSpec):
        return FolderSource(spec)
    if isinstance(spec, FileSpec):
        return SingleFileSource(spec, access.http)
    if isinstance(spec, BucketSpec):
        from downloader.sources.bucket import BucketSource

        return BucketSource(spec, access)
    from downloader.sources.huggingface import HubSource

    return HubSource(spec, access)
