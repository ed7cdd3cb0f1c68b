"""Sources as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.errors import InvalidSettingError
from downloader.spec import FolderSpec, HubSpec, parse_spec


@pytest.mark.parametrize(
    ("text", "spec", "uri"),
    [
        ("hf://owner/name", HubSpec("owner/name", "main"), "hf://owner/name@main"),
        ("hf://o-w.n/n_a.m-e@v1.5", HubSpec("o-w.n/n_a.m-e", "v1.5"), "hf://o-w.n/n_a.m-e@v1.5"),
        ("hf://o/n@refs/pr/7", HubSpec("o/n", "refs/pr/7"), "hf://o/n@refs/pr/7"),
        ("file:///mnt/a", FolderSpec(Path("/mnt/a")), "file:///mnt/a"),
        ("file:///mnt/a/", FolderSpec(Path("/mnt/a")), "file:///mnt/a"),
        ("file:///mnt/a%20b", FolderSpec(Path("/mnt/a b")), "file:///mnt/a%20b"),
    ],
)
def test_a_source_is_read_and_written_in_one_way(
    text: str, spec: HubSpec | FolderSpec, uri: str
) -> None:
    assert parse_spec(text) == spec
    assert spec.uri == uri


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "scheme"),
        ("owner/name", "scheme"),
        ("https://host/owner/name", "scheme"),
        ("s3://bucket/name", "scheme"),
        ("hf://name", "repository"),
        ("hf://owner/name/file", "repository"),
        ("hf:///name", "owner"),
        ("hf://owner/", "name"),
        ("hf://-owner/name", "owner"),
        ("hf://owner/na me", "name"),
        ("hf://owner/a..b", "name"),
        ("hf://owner/a--b", "name"),
        ("hf://owner/name.git", "name"),
        ("hf://owner/" + "n" * 97, "name"),
        ("hf://owner/name@", "revision"),
        ("hf://owner/name@a b", "revision"),
        ("hf://owner/name@a@b", "revision"),
        ("hf://owner/name@../main", "revision"),
        ("file://relative/path", "path"),
        ("file://", "path"),
        ("file:///mnt/../etc", "path"),
        ("file:///mnt/%2e%2e/etc", "path"),
    ],
)
def test_a_mistake_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"the {field} is wrong: "):
        parse_spec(text)


def test_only_a_full_commit_is_pinned() -> None:
    assert HubSpec("o/n", "0123456789" * 4).is_pinned
    assert not HubSpec("o/n", "0123456").is_pinned
    assert not HubSpec("o/n", "main").is_pinned
