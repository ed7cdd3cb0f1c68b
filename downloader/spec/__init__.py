"""What to download, as the operator writes it: sources, and models made of them."""

from downloader.spec.model import ModelSpec, PartKind, PartSpec
from downloader.spec.models import read_models
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
