"""What the sources of one run share: connections, and the hub's token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from downloader.errors import InvalidSettingError
from downloader.settings import Settings
from downloader.sources.http import HttpClient


@dataclass(frozen=True)
class Access:
    """Made once for all models; what is opened when it is needed is closed by ``with``."""

    settings: Settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "http" in self.__dict__:
            self.http.close()

    @cached_property
    def http(self) -> HttpClient:
        """The connections."""
        return HttpClient(self.settings.stall_seconds)

    @cached_property
    def token(self) -> str | None:
        """The hub's token: from the file of the settings, else as ``huggingface_hub`` finds it.

        Raises:
            InvalidSettingError: it can be no token; it is not repeated.
        """
        from huggingface_hub import get_token  # only a hub needs it

        path = self.settings.token_file
        token = (_read(path) if path is not None else None) or get_token()
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise InvalidSettingError("the hub's token has spaces or other than ASCII characters")
        return token


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None  # an optional Secret's volume is mounted all the same
    except (OSError, UnicodeDecodeError):
        raise InvalidSettingError(f"--token_file: {path} cannot be read") from None
