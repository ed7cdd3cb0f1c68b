"""From the command line and the environment to one verb's settings, or to one error message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from pydantic import ValidationError
from pydantic_settings import SettingsError, get_subcommand

from downloader.errors import InvalidSettingError
from downloader.settings import VERBS, Settings, Verb

_DEFAULT_VERB = "fetch"
_HELP = ("-h", "--help")


def read_verb(arguments: Sequence[str]) -> Verb:
    """The settings of the verb that ``arguments`` name: from its flags, else the environment.

    Raises:
        InvalidSettingError: names the flag and the reason, never a value that may be a secret.
        SystemExit: the arguments request ``--help``.
    """
    try:
        settings = Settings(
            _cli_parse_args=[_kebab_case(argument) for argument in _with_verb(arguments)],
            _cli_prog_name="python -m downloader",
            _cli_exit_on_error=False,
        )  # type: ignore[call-arg]  # the verb comes from the command line
        return cast(Verb, get_subcommand(settings, cli_exit_on_error=False))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = str(first["loc"][-1])
        flag, variable = f"--{name.replace('_', '-')}", f"DOWNLOADER_{name.upper()}"
        raise InvalidSettingError(f"{flag} ({variable}): {first['msg']}") from None
    except SettingsError as error:
        raise InvalidSettingError(_parser_message(str(error))) from None


def _with_verb(arguments: Sequence[str]) -> list[str]:
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _HELP):
        return [_DEFAULT_VERB, *arguments]
    if arguments[0] not in (*VERBS, *_HELP):
        # The message does not contain the word: it may be a misplaced token.
        raise InvalidSettingError(f"unknown verb; the verbs are {', '.join(VERBS)}")
    return list(arguments)


def _kebab_case(argument: str) -> str:
    """Accept ``--log_format`` for ``--log-format``."""
    flag, equals, value = argument.partition("=")
    return f"{flag.replace('_', '-')}{equals}{value}" if flag.startswith("--") else argument


def _parser_message(message: str) -> str:
    _, unknown, words = message.partition("unrecognized arguments: ")
    if not unknown:
        return message.removeprefix("error parsing CLI: ")
    # Only flags are shown: the word after an unknown flag may be a token.
    flags = re.findall(r"(?:^|\s)(--?[A-Za-z][\w-]*)", words)
    return " ".join(["unknown argument", *flags]) + "; --help lists the flags"
