"""The places that a model can come from, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from downloader.sources.remote import ByteStream, Digest, RemoteFile, Source
from downloader.spec import BucketSpec, FileSpec, FolderSpec, SourceSpec

if TYPE_CHECKING:
    from downloader.sources.access import Access

__all__ = ["ByteStream", "Digest", "RemoteFile", "Source", "open_source"]


def open_source(spec: SourceSpec, access: Access) -> Source:
    """The source that ``spec`` names. Sends no request, and imports no other source's library.

    Raises:
        InvalidSettingError: a variable for certificates, proxies or endpoints is not valid.
    """
    if isinstance(spec, FolderSpec):
        from downloader.sources.folder import FolderSource

        return FolderSource(spec)
    from downloader.sources.network_variables import (
        check_bucket_variables,
        check_hub_variables,
        check_network_variables,
    )

    check_network_variables()
    if isinstance(spec, FileSpec):
        from downloader.sources.single_file import SingleFileSource

        return SingleFileSource(spec, access.http)
    if isinstance(spec, BucketSpec):
        from downloader.sources.bucket import BucketSource

        check_bucket_variables()
        return BucketSource(spec, access)
    check_hub_variables()
    from downloader.sources.huggingface import HubSource

    return HubSource(spec, access)
