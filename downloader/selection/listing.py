"""What holds for every listing: safe names, and the operator's own patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from downloader.errors import UnsuitableModelError
from downloader.sources.remote import RemoteFile
from modelstore.layout import MODEL_INDEX_NAME


def check_names(files: Iterable[RemoteFile]) -> None:
    """See that no name leaves the folder that the file is put in.

    Raises:
        UnsuitableModelError: names the file.
    """
    for file in files:
        parts = file.path.split("/")
        if "\\" in file.path or "\0" in file.path or not {"", ".", ".."}.isdisjoint(parts):
            raise UnsuitableModelError(
                f"the file name {file.path!r} could leave the model's folder"
            )


def filtered(
    files: Iterable[RemoteFile], allow: Sequence[str], deny: Sequence[str]
) -> tuple[RemoteFile, ...]:
    """The files that match one of ``allow``, where there is any, and none of ``deny``.

    A pattern is a glob over the whole path, and one that ends in a slash means all below it, as in
    huggingface_hub. The model index is always kept: nothing else names the components.
    """
    return tuple(
        file
        for file in files
        if file.path == MODEL_INDEX_NAME
        or ((not allow or _matches(file, allow)) and not _matches(file, deny))
    )


def _matches(file: RemoteFile, patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(file.path, f"{pattern}*" if pattern.endswith("/") else pattern)
        for pattern in patterns
    )
