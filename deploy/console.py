"""What the operator sees: one line for each step, and progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.prompt import Confirm
from rich.text import Text

from deploy.explain import Explanation

_STYLES = {"ok": "green", "wait": "cyan", "warn": "yellow", "fail": "bold red"}
_DIFF_STYLES = {"-": "red", "+": "green", "@": "cyan"}


class Reporter:
    """Writes to a rich console, which uses colours only on a terminal."""

    def __init__(self, console: Console | None = None, errors: Console | None = None) -> None:
        # Without soft_wrap rich would break commands that people copy.
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.errors = errors or Console(stderr=True, highlight=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """Whether it can draw a bar and ask a question."""
        return self.console.is_terminal

    def say(self, line: str, style: str = "") -> None:
        """Print one plain line; markup in it has no effect."""
        self.console.print(Text(line, style=style))

    def finding(self, level: str, what: str, advice: str = "") -> None:
        """Print a line that begins with ok, wait, warn or fail, and below it what to do."""
        self.console.print(Text(f"{level:<4}", style=_STYLES[level]) + Text(f"  {what}"))
        for line in advice.splitlines():
            self.console.print(Text(f"      {line}"))

    def diff(self, lines: Iterable[str]) -> None:
        """Print the lines of a unified diff, coloured by their first character."""
        for line in lines:
            self.say(line, _DIFF_STYLES.get(line[:1], ""))

    def waits(self, explanation: Explanation) -> None:
        """Print why a command waits."""
        level = "warn" if explanation.advice else "wait"
        self.finding(level, explanation.reason, explanation.advice)

    def complain(self, message: str) -> None:
        """Print an error to stderr."""
        self.errors.print(Text("error: ", style="bold red") + Text(message))

    def confirm(self, question: str) -> bool:
        """Ask on a terminal; without one the answer is no."""
        return self.is_terminal and Confirm.ask(Text(question), console=self.console, default=False)

    @contextmanager
    def bars(self) -> Iterator[Progress]:
        """Progress bars for downloads; invisible without a terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=self.console, disable=not self.is_terminal) as progress:
            yield progress
