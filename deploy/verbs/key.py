"""``key``: create a bearer key for a caller, and the line of the key file that admits it."""

from __future__ import annotations

import hashlib
import secrets

from deploy.console import Reporter
from deploy.settings import Key

_BYTES = 32


def run(flags: Key, reporter: Reporter) -> None:
    """Print both; nothing is stored. Of a random key of 256 bits only the hash is needed."""
    key = f"sk-{secrets.token_urlsafe(_BYTES)}"
    role = "admin" if flags.admin else "user"
    digest = hashlib.sha256(key.encode()).hexdigest()
    reporter.say("The key. It is shown only once; give it to the caller:")
    reporter.say(f"  {key}")
    reporter.say("The line for the key file, which holds only the hash:")
    reporter.say(f"  {flags.name} {role} {digest}")
