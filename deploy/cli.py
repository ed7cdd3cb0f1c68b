"""From the command line to one verb's settings, or to one sentence of complaint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import ValidationError
from pydantic_settings import SettingsError, get_subcommand

from deploy.errors import UsageError
from deploy.settings import Settings, Verb


def read_verb(arguments: Sequence[str]) -> Verb:
    """The settings of the verb that ``arguments`` name.

    Raises:
        UsageError: names the flag and the reason.
        SystemExit: ``--help`` was asked for.
    """
    try:
        settings = Settings(
            _cli_parse_args=list(arguments),
            _cli_prog_name="python -m deploy",
            _cli_exit_on_error=False,
        )  # type: ignore[call-arg]  # the verb comes from the command line
        return cast(Verb, get_subcommand(settings, cli_exit_on_error=False))
    except ValidationError as error:
        first = error.errors()[0]
        what = _as_typed(str(first["loc"][-1]), arguments)
        raise UsageError(f"{what}: {first['msg'].removeprefix('Value error, ')}") from None
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ").removeprefix("Error: ")
        raise UsageError(f"{message}; --help says more") from None


def _as_typed(field: str, arguments: Sequence[str]) -> str:
    """A field's flag, or what the help calls an argument without one."""
    flag = f"--{field.replace('_', '-')}"
    return flag if any(one.partition("=")[0] == flag for one in arguments) else field.upper()
