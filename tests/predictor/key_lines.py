"""Keys for tests, and the lines of a key file that hold their hashes."""

from __future__ import annotations

import hashlib

USER, ADMIN, OTHER = "sk-user-0123456789", "sk-admin-0123456789", "sk-other-0123456789"


def key_line(name: str, key: str, role: str = "user", own_limits: str = "") -> str:
    """One line of a key file."""
    return f"{name} {role} {hashlib.sha256(key.encode()).hexdigest()} {own_limits}\n"


def bearer(key: str) -> dict[str, str]:
    """The header that OpenAI's clients send."""
    return {"Authorization": f"Bearer {key}"}
