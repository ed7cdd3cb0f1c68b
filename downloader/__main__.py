"""``python -m downloader [VERB]``: reads the settings, runs the verb, returns an exit code."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from types import FrameType

from downloader.cli import read_verb
from downloader.errors import (
    ClosedOutputError,
    DownloadError,
    InterruptedRunError,
    InvalidSettingError,
    exit_of,
)
from downloader.logs import configure_logs, report_error, write_termination_log
from downloader.settings import SourceSettings, Verb
from modelstore import ModelStoreError

logger = logging.getLogger("downloader")


def main() -> int:
    """Log to stderr, print results to stdout, and leave a summary for the kubelet."""
    # A core file would contain the token.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        verb = read_verb(sys.argv[1:])
    except InvalidSettingError as error:
        report_error(str(error), exit_of(error).code, "text")
        return exit_of(error).code
    return _run(verb)


def _run(verb: Verb) -> int:
    configure_logs(verb.log_format, _secrets(verb))
    try:
        from downloader.verbs import run_verb

        summary, code = run_verb(verb), 0
    except ClosedOutputError as error:
        # Without a message: `plan | head` is not a mistake.
        summary, code = str(error), exit_of(error).code
    except (DownloadError, ModelStoreError, InterruptedRunError) as error:
        summary, code = str(error), exit_of(error).code
        _ignore_signals()
        report_error(summary, code, verb.log_format)
    except Exception as error:
        logger.exception("internal error (a bug)", extra={"event": "bug"})
        summary, code = "internal error (a bug); the log has the details", exit_of(error).code
        report_error(summary, code, verb.log_format)
    write_termination_log(verb.termination_log, summary)
    return code


def _interrupt(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    raise InterruptedRunError(f"interrupted by {name}; the next run continues from here")


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _secrets(verb: Verb) -> list[str]:
    """The secrets that are known before any request; no log line may contain them."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    secrets = [os.environ.get(name, "").strip() for name in names]
    try:
        if isinstance(verb, SourceSettings) and verb.token_file is not None:
            secrets.append(verb.token_file.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError):
        pass  # reported where the token is needed
    return secrets


if __name__ == "__main__":
    status = main()
    # Do not wait for threads that wait for a silent server.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
