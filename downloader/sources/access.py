"""What the sources of one run share: connections, retries, and the hub's token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from downloader.errors import InvalidSettingError
from downloader.settings import SourceSettings
from downloader.sources.http import HttpClient
from downloader.sources.retry import Retries
from downloader.workers import Stop


@dataclass(frozen=True)
class Access:
    """Created once for all models of a run; ``with`` closes the connections."""

    settings: SourceSettings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "http" in self.__dict__:
            self.http.close()

    @cached_property
    def http(self) -> HttpClient:
        """The connections, opened on first use."""
        return HttpClient(self.settings.stall_seconds)

    def retries(self, stop: Stop) -> Retries:
        """The retries of one request."""
        return Retries(self.settings.max_retries, stop)

    @cached_property
    def token(self) -> str | None:
        """The hub's token: from ``token_file``, else from where ``huggingface_hub`` finds it.

        Raises:
            InvalidSettingError: the token is malformed; the message does not repeat it.
        """
        from huggingface_hub import get_token  # only a hub needs it

        path = self.settings.token_file
        token = (_read(path) if path is not None else None) or get_token()
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise InvalidSettingError("the hub's token contains spaces or non-ASCII characters")
        return token


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None  # the volume of an optional Secret is mounted even without the Secret
    except (OSError, UnicodeDecodeError):
        raise InvalidSettingError(f"--token-file: {path} cannot be read") from None
