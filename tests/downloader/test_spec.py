"""Sources as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.errors import InvalidSettingError
from downloader.spec import BucketSpec, FileSpec, FolderSpec, HubSpec, SourceSpec, parse_spec

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "spec", "uri"),
    [
        ("hf://owner/name", HubSpec("owner/name", "main"), "hf://owner/name@main"),
        ("hf://o-w.n/n_a.m-e@v1.5", HubSpec("o-w.n/n_a.m-e", "v1.5"), "hf://o-w.n/n_a.m-e@v1.5"),
        ("hf://o/n@refs/pr/7", HubSpec("o/n", "refs/pr/7"), "hf://o/n@refs/pr/7"),
        ("hf://o/n@_x", HubSpec("o/n", "_x"), "hf://o/n@_x"),
        ("hf://o/n@fix#7/a=b,(c)", HubSpec("o/n", "fix#7/a=b,(c)"), "hf://o/n@fix#7/a=b,(c)"),
        ("hf://o/n@größe", HubSpec("o/n", "größe"), "hf://o/n@größe"),
        ("file:///mnt/a", FolderSpec(Path("/mnt/a")), "file:///mnt/a"),
        ("file:///mnt/a/", FolderSpec(Path("/mnt/a")), "file:///mnt/a"),
        ("file:///mnt/a%20b", FolderSpec(Path("/mnt/a b")), "file:///mnt/a%20b"),
        ("s3://bucket/a/b/", BucketSpec("bucket", "a/b"), "s3://bucket/a/b"),
        ("s3://bucket", BucketSpec("bucket", ""), "s3://bucket"),
    ],
)
def test_a_source_has_one_canonical_form(text: str, spec: SourceSpec, uri: str) -> None:
    assert parse_spec(text) == spec
    assert spec.uri == uri


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "scheme"),
        ("owner/name", "scheme"),
        ("ftp://host/owner/name", "scheme"),
        ("s3:///name", "bucket"),
        ("s3://bu cket/name", "bucket"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/../b", "prefix"),
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
        ("hf://owner/name@-x", "revision"),
        ("hf://owner/name@/x", "revision"),
        ("hf://owner/name@x/", "revision"),
        ("hf://owner/name@x.", "revision"),
        ("hf://owner/name@a//b", "revision"),
        ("hf://owner/name@a/.b", "revision"),
        ("hf://owner/name@x.lock", "revision"),
        ("hf://owner/name@a:b", "revision"),
        ("hf://owner/name@a\nb", "revision"),
        ("file://relative/path", "path"),
        ("file://", "path"),
        ("file:///mnt/../etc", "path"),
        ("file:///mnt/%2e%2e/etc", "path"),
    ],
)
def test_a_mistake_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"the {field} is not valid: "):
        parse_spec(text)


def test_only_a_full_commit_is_pinned() -> None:
    assert HubSpec("o/n", "0123456789" * 4).is_pinned
    assert not HubSpec("o/n", "0123456").is_pinned
    assert not HubSpec("o/n", "main").is_pinned


def test_a_single_file_has_a_digest_and_shows_no_query() -> None:
    spec = parse_spec("https://host/a%20dir/x.safetensors?token=secret", DIGEST.upper())

    assert isinstance(spec, FileSpec)
    assert (spec.file_name, spec.sha256) == ("x.safetensors", DIGEST)
    assert spec.url.endswith("?token=secret")
    assert spec.uri == "https://host/a%20dir/x.safetensors"
    assert "secret" not in repr(spec)
    assert parse_spec("http://127.0.0.1:8000/x.safetensors", DIGEST)


@pytest.mark.parametrize(
    ("text", "digest", "part"),
    [
        ("https://host/x.safetensors", "", "sha256"),
        ("https://host/x.safetensors", "0" * 63, "sha256"),
        ("https:///x.safetensors", DIGEST, "host"),
        ("https://host/x.ckpt", DIGEST, "path"),
        ("https://host/", DIGEST, "path"),
        ("http://host/x.safetensors", DIGEST, "scheme"),
        ("https://user:secret@host/x.safetensors", DIGEST, "address"),
        ("https://user:secret@host/x.ckpt?secret", DIGEST, "address"),
        ("https://host/x.ckpt?secret", DIGEST, "path"),
        ("hf://owner/name", DIGEST, "sha256"),
    ],
)
def test_a_mistake_in_a_single_file_is_named_without_secrets(
    text: str, digest: str, part: str
) -> None:
    with pytest.raises(InvalidSettingError, match=f"the {part} is not valid: ") as caught:
        parse_spec(text, digest)
    assert "secret" not in str(caught.value)
