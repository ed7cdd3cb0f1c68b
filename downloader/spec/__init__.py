"""What to download: sources as URIs, and models that consist of parts."""

from downloader.spec.models import ModelSpec, PartKind, PartSpec, read_models
from downloader.spec.uri import (
    BucketSpec,
    FileSpec,
    FolderSpec,
    HubSpec,
    SourceSpec,
    parse_spec,
)

__all__ = [
    "BucketSpec",
    "FileSpec",
    "FolderSpec",
    "HubSpec",
    "ModelSpec",
    "PartKind",
    "PartSpec",
    "SourceSpec",
    "parse_spec",
    "read_models",
]
