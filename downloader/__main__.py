"""``python -m downloader [VERB]``: settings in, the verb done, an exit code out."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from types import FrameType

from downloader.cli import VERBS, read_settings, read_verb
from downloader.errors import DownloadError, InvalidSettingError, exit_code
from downloader.logs import configure_logs, tell_error, write_termination_log
from downloader.settings import Settings
from downloader.workers import InterruptedRunError
from modelstore import ModelStoreError

logger = logging.getLogger("downloader")


def main() -> int:
    """Log on stderr, print the outcome on stdout, leave a summary for the kubelet."""
    # A core file would hold the token.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        verb, flags = read_verb(sys.argv[1:])
        if "--help" in flags or "-h" in flags:
            print_verbs()
        settings = read_settings(flags)
    except InvalidSettingError as error:
        tell_error(str(error), exit_code(error), "text")
        return exit_code(error)
    return _run(verb, settings)


def _run(verb: str, settings: Settings) -> int:
    configure_logs(settings.log_format, _secrets(settings))
    try:
        from downloader.verbs import find_verb

        summary, code = find_verb(verb)(settings), 0
    except (DownloadError, ModelStoreError, InterruptedRunError) as error:
        summary, code = str(error), exit_code(error)
        _ignore_signals()
        tell_error(summary, code, settings.log_format)
    except Exception as error:
        logger.exception("this is a mistake of the program", extra={"event": "bug"})
        summary, code = f"{type(error).__name__}, see the log", 1
        tell_error(summary, code, settings.log_format)
    write_termination_log(settings.termination_log, summary)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise InterruptedRunError(
        f"interrupted by {signal.Signals(number).name}; the next run goes on from here"
    )


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def print_verbs() -> None:
    """The part of ``--help`` that argparse does not know."""
    lines = [f"  {verb:10}{what}" for verb, what in VERBS.items()]
    print("\n".join(["verbs:", *lines, ""]))


def _secrets(settings: Settings) -> list[str]:
    """What no line may hold, as far as it is known before anything is asked for."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    secrets = [os.environ.get(name, "").strip() for name in names]
    try:
        if settings.token_file is not None:
            secrets.append(settings.token_file.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError):
        pass  # told where the token is needed
    return secrets


if __name__ == "__main__":
    status = main()
    # Threads that wait for a silent server are not waited for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
