"""From the command line and the environment to ``Settings``, or to one sentence of complaint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import SettingsError

from downloader.errors import InvalidSettingError
from downloader.settings import Settings


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the flags in ``arguments``, and the environment for those that are not there.

    Raises:
        InvalidSettingError: names the flag and the reason, never a value that may be a secret.
        SystemExit: ``--help`` was asked for.
    """
    try:
        return Settings(
            _cli_parse_args=list(arguments),
            _cli_prog_name="python -m downloader",
            _cli_exit_on_error=False,
        )  # type: ignore[call-arg]  # the required fields come from the flags
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidSettingError(f"--{name} ({_variable(name)}): {first['msg']}") from None
    except SettingsError as error:
        raise InvalidSettingError(_parser_complaint(str(error))) from None


def _variable(name: str) -> str:
    return f"{Settings.model_config['env_prefix']}{name.upper()}"


def _parser_complaint(message: str) -> str:
    _, unknown, words = message.partition("unrecognized arguments: ")
    if not unknown:
        return message.removeprefix("error parsing CLI: ")
    # Only names are repeated: what follows an unknown flag may be a token.
    flags = re.findall(r"(?:^|\s)(--?[A-Za-z][\w-]*)", words)
    return " ".join(["unknown argument", *flags]) + "; --help lists the flags"
