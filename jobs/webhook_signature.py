"""Signatures of webhooks, as Standard Webhooks 1.0 defines them with a shared secret.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"
# The bounds of the specification, in bytes.
_SHORTEST, _LONGEST = 24, 64


def read_secrets(text: str) -> tuple[bytes, ...]:
    """The keys in a list of secrets that is separated by commas.

    Raises:
        ValueError: one is not valid; the message does not contain it.
    """
    return tuple(_key(secret.strip()) for secret in text.split(","))


def signed_headers(
    secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of a message, with a signature by each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = [hmac.digest(secret, signed, hashlib.sha256) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests),
    }


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not secret.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(
            f"webhook_secrets: a secret must be {_PREFIX} and the base64 form of {_SHORTEST} to "
            f"{_LONGEST} bytes"
        )
    return key
