"""The key file: its lines, its changes, and the comparison of keys."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path
from typing import Any

import pytest

from predictor import reloaded_file
from predictor.access import api_keys
from predictor.access.api_keys import ApiKeys, parse
from predictor.access.rates import Rates
from predictor.errors import ModelLoadError
from predictor.metrics import API_KEYS_FAILURES
from tests.predictor.key_lines import ADMIN, OTHER, USER, key_line

LINES = "# our callers\n\n" + key_line("alice", USER) + key_line("ops", ADMIN, "admin")
DIGEST = hashlib.sha256(b"any").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(LINES, "utf-8")
    return path


@pytest.fixture
def keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> ApiKeys:
    """Keys that reread their file on every use."""
    monkeypatch.setattr(reloaded_file, "_SECONDS_BETWEEN_READS", 0.0)
    return ApiKeys(file)


def name_of(keys: ApiKeys, token: str) -> str | None:
    found = keys.find(token)
    return found.name if found else None


def test_a_key_is_found_by_its_hash(keys: ApiKeys) -> None:
    found = [keys.find(token) for token in (USER, ADMIN)]

    assert [(key.name, key.is_admin) for key in found if key] == [("alice", False), ("ops", True)]


@pytest.mark.parametrize("token", ["", OTHER, USER + "x", USER[:-1], USER.upper(), "\xe9"])
def test_any_other_key_is_not_found(keys: ApiKeys, token: str) -> None:
    assert keys.find(token) is None


def test_the_hash_itself_is_not_a_key(keys: ApiKeys) -> None:
    assert keys.find(hashlib.sha256(USER.encode()).hexdigest()) is None


def test_every_key_is_compared_in_constant_time(
    keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare_digest(first: Any, second: Any) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(api_keys, "hmac", type("Hmac", (), {"compare_digest": compare_digest}))
    assert name_of(keys, USER) == "alice"
    assert len(compared) == 2, "the first match must not end the comparison"
    # Digests, not keys: their length says nothing about a key.
    assert {len(part) for pair in compared for part in pair} == {32}


def test_limits_of_its_own_replace_the_defaults() -> None:
    (key,) = parse(key_line("alice", USER, "user", "pictures=20 megapixels=2.5").encode())

    assert key.rates(Rates(60, 10, 5)) == Rates(60, 20, 2.5)


@pytest.mark.parametrize("own", [("pictures=20", ""), ("", "pictures=20"), ("pictures=20",) * 2])
def test_a_rotation_keeps_the_limits_of_the_name(own: tuple[str, str]) -> None:
    lines = key_line("alice", USER, "user", own[0]) + key_line("alice", OTHER, "user", own[1])
    old, new, other = parse((lines + key_line("bob", ADMIN)).encode())

    assert old.rates(Rates(60, 10, 5)) == new.rates(Rates(60, 10, 5)) == Rates(60, 20, 5)
    assert other.rates(Rates(60, 10, 5)) == Rates(60, 10, 5)


@pytest.mark.parametrize("own", ["pictures=30", "megapixels=20", "pictures=20 megapixels=1"])
def test_different_limits_of_one_name_are_rejected(own: str) -> None:
    lines = ["# comment\n", key_line("alice", USER, "user", "pictures=20"), key_line("bob", ADMIN)]

    with pytest.raises(ValueError, match=r"lines 2 and 4: both keys of alice share its limits"):
        parse("".join([*lines, key_line("alice", OTHER, "user", own)]).encode())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "contains no keys"),
        ("# nothing", "contains no keys"),
        ("alice", "line 1: the role must be user or admin"),
        (f"alice root {DIGEST}", "line 1: the role must be user or admin"),
        (f"al/ice user {DIGEST}", "line 1: the name must be"),
        ("alice user", "line 1: the third word must be the SHA-256 digest"),
        (f"alice user {USER}", "line 1: the third word must be the SHA-256 digest"),
        (f"alice user {DIGEST} pictures", "line 1: a limit must be one of requests, pictures"),
        (f"alice user {DIGEST} images=3", "line 1: a limit must be one of requests, pictures"),
        (f"alice user {DIGEST} pictures=-1", "line 1: a limit must be"),
        (f"alice user {DIGEST} pictures=nan", "line 1: a limit must be"),
        (f"alice user {DIGEST} pictures=1 pictures=2", "line 1: a limit must be"),
        (f"a user {DIGEST}\nb user {DIGEST}", "contains one key twice"),
        ("\xff", "the name must be"),
    ],
)
def test_an_invalid_file_stops_startup(file: Path, line: str, reason: str) -> None:
    file.write_text(line, "utf-8")

    with pytest.raises(ModelLoadError, match=reason) as raised:
        ApiKeys(file)

    assert USER not in str(raised.value)


def test_a_rotation_needs_no_restart(keys: ApiKeys, file: Path) -> None:
    file.write_text(LINES + key_line("alice", OTHER), "utf-8")
    both = [name_of(keys, token) for token in (USER, OTHER)]
    file.write_text(key_line("alice", OTHER), "utf-8")
    after = [name_of(keys, token) for token in (USER, OTHER, ADMIN)]

    assert both == ["alice", "alice"]
    assert after == [None, "alice", None]


def test_a_secrets_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloaded_file, "_SECONDS_BETWEEN_READS", 0.0)
    for version, key in (("..1", USER), ("..2", OTHER)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(key_line("alice", key), "utf-8")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    keys = ApiKeys(tmp_path / "keys")
    before = [name_of(keys, token) for token in (USER, OTHER)]

    # As the kubelet does it: a new link, renamed over the old one.
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    assert before == ["alice", None]
    assert [name_of(keys, token) for token in (USER, OTHER)] == [None, "alice"]


@pytest.mark.parametrize("content", [None, b"", b"alice user\n", b"\xff\xfe"])
def test_a_broken_file_leaves_the_last_good_keys_in_force(
    keys: ApiKeys, file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "predictor")
    before = API_KEYS_FAILURES._value.get()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    assert [name_of(keys, USER) for _ in range(3)] == ["alice"] * 3
    assert name_of(keys, OTHER) is None
    assert API_KEYS_FAILURES._value.get() == before + 4
    assert len(caplog.records) == 1
    assert "the last good list stays in force" in caplog.text
