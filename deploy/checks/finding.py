"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """``fail`` marks what would stop the deployment; ``advice`` says what to do about it."""

    level: Level
    what: str
    advice: str = ""
