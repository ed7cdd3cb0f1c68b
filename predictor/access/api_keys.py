"""Bearer keys, from a file that holds only their hashes and may change at any time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from predictor.access.rates import Rates, parse_rates
from predictor.metrics import API_KEYS_FAILURES
from predictor.reloaded_file import ReloadedFile

# Names become metric labels and parts of Redis keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_ROLES = ("user", "admin")


@dataclass(frozen=True)
class ApiKey:
    """One line of the file; ``digest`` is the SHA-256 digest of the key itself.

    A fast hash is enough: a random key of 256 bits cannot be guessed from its digest.
    """

    name: str
    digest: bytes
    is_admin: bool
    own_rates: Mapping[str, float]

    def rates(self, defaults: Rates) -> Rates:
        """The limits of this key's name: its own, and ``defaults`` for the rest."""
        return defaults.replaced(self.own_rates)


class ApiKeys:
    """The keys of a file, which is reread when it changes (``ReloadedFile``)."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ModelLoadError: the file cannot be read or is not valid.
        """
        self._keys = ReloadedFile(
            file, parse, setting="api_keys_file", kind="list", failures=API_KEYS_FAILURES
        )

    def find(self, token: str) -> ApiKey | None:
        """The key that a caller sent, or None if it is not in the file.

        Compares with every key in constant time, so that the time reveals nothing about them.
        """
        digest = hashlib.sha256(token.encode()).digest()
        matches = [key for key in self._keys.content if hmac.compare_digest(key.digest, digest)]
        return matches[0] if matches else None


def parse(content: bytes) -> tuple[ApiKey, ...]:
    """Parse lines of ``name role digest [requests=N] [pictures=N] [megapixels=N]``.

    ``#`` starts a comment line. A name may have several keys, which share its limits.

    Raises:
        ValueError: names the line and the reason, and never quotes a key.
    """
    lines = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    keys = {
        number: _key(number, line)
        for number, line in lines
        if line.strip() and line.lstrip()[0] != "#"
    }
    if not keys:
        raise ValueError("contains no keys")
    if len({key.digest for key in keys.values()}) < len(keys):
        raise ValueError("contains one key twice")
    limits = _limits_by_name(keys)
    return tuple(replace(key, own_rates=limits.get(key.name, {})) for key in keys.values())


def _limits_by_name(keys: Mapping[int, ApiKey]) -> dict[str, Mapping[str, float]]:
    """The limits of each name, from those of its lines that have any.

    Raises:
        ValueError: two lines of one name have different limits.
    """
    limited: dict[str, tuple[int, Mapping[str, float]]] = {}
    for number, key in keys.items():
        if not key.own_rates:
            continue
        first, limits = limited.setdefault(key.name, (number, key.own_rates))
        if limits != key.own_rates:
            raise ValueError(
                f"lines {first} and {number}: both keys of {key.name} share its limits, "
                "so write the same limits in both lines, or in only one of them"
            )
    return {name: limits for name, (_, limits) in limited.items()}


def _key(number: int, line: str) -> ApiKey:
    name, role, digest, *own = [*line.split(), "", "", ""][: max(3, len(line.split()))]
    if not _NAME.fullmatch(name):
        raise ValueError(f"line {number}: the name must be letters, digits, '.', '_', '@' or '-'")
    if role not in _ROLES:
        raise ValueError(f"line {number}: the role must be user or admin")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(
            f"line {number}: the third word must be the SHA-256 digest of the key, 64 hex digits"
        )
    try:
        rates = parse_rates(own)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    return ApiKey(name, bytes.fromhex(digest), role == "admin", rates)
