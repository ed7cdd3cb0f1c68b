"""From the command line and the environment to a verb and ``Settings``, or to one complaint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import SettingsError

from downloader.errors import InvalidSettingError
from downloader.settings import Settings

VERBS = {
    "fetch": "Fetch, verify and publish; the default.",
    "plan": "Print files, bytes and the resolved commit; fetch no weights.",
    "verify": "Hash what is published and compare it with its marker.",
    "list": "List the published models and their revisions.",
    "prune": "Delete all but the newest revisions, and what dead runs left.",
    "rollback": "Serve the revision that was served before, or the one of --revision.",
}
DEFAULT_VERB = "fetch"


def read_verb(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb and the flags behind it.

    Raises:
        InvalidSettingError: the first word is no verb.
    """
    if not arguments or arguments[0].startswith("-"):
        return DEFAULT_VERB, list(arguments)
    verb, *flags = arguments
    if verb not in VERBS:
        # Not repeated: it may be a token in the wrong place.
        raise InvalidSettingError(f"the first word is no verb; verbs are {', '.join(VERBS)}")
    return verb, flags


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the flags in ``arguments``, and the environment for those that are not there.

    Raises:
        InvalidSettingError: names the flag and the reason, never a value that may be a secret.
        SystemExit: ``--help`` was asked for.
    """
    try:
        return Settings(
            _cli_parse_args=[_with_underscores(argument) for argument in arguments],
            _cli_prog_name="python -m downloader [VERB]",
            _cli_exit_on_error=False,
        )  # type: ignore[call-arg]  # only mypy's plugin of pydantic knows them
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = str(first["loc"][0])
        raise InvalidSettingError(f"--{name} ({_variable(name)}): {first['msg']}") from None
    except SettingsError as error:
        raise InvalidSettingError(_parser_complaint(str(error))) from None


def _with_underscores(argument: str) -> str:
    """``--log-format`` is ``--log_format``."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.removeprefix("--").partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"


def _variable(name: str) -> str:
    return f"{Settings.model_config['env_prefix']}{name.upper()}"


def _parser_complaint(message: str) -> str:
    _, unknown, words = message.partition("unrecognized arguments: ")
    if not unknown:
        return message.removeprefix("error parsing CLI: ")
    # Only names are repeated: what follows an unknown flag may be a token.
    flags = re.findall(r"(?:^|\s)(--?[A-Za-z][\w-]*)", words)
    return " ".join(["unknown argument", *flags]) + "; --help lists the flags"
