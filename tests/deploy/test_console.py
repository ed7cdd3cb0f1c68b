"""The console output."""

from __future__ import annotations

import io
import time

from rich.console import Console

from deploy.console import Reporter
from deploy.explain import Explanation
from deploy.waits import Waits


def reporter(out: io.StringIO) -> Reporter:
    return Reporter(Console(file=out, soft_wrap=True, highlight=False))


def test_a_reason_is_printed_once_until_it_changes() -> None:
    out = io.StringIO()
    waits = Waits(reporter(out))

    for reason in ("no GPU", "no GPU", "loading", "no GPU"):
        waits.report(Explanation(reason))

    assert [line[6:] for line in out.getvalue().splitlines()] == ["no GPU", "loading", "no GPU"]


def test_a_wait_and_a_problem_have_different_labels() -> None:
    out = io.StringIO()

    reporter(out).waits(Explanation("the image is pulled"))
    reporter(out).waits(Explanation("no GPU", "start a GPU node"))

    assert out.getvalue().splitlines() == [
        "wait  the image is pulled",
        "warn  no GPU",
        "      start a GPU node",
    ]


def test_a_command_to_copy_is_not_wrapped_or_parsed_as_markup() -> None:
    out = io.StringIO()
    command = f"kubectl patch [red]{'x' * 300}[/red]"

    reporter(out).finding("fail", "off", command)

    assert command in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_warning_is_held_back_during_the_grace_period() -> None:
    out = io.StringIO()
    waits = Waits(reporter(out), grace=0.05)

    waits.report(Explanation("no storage yet", "name a class"))
    waits.report(Explanation("the image is pulled"))
    assert waits.at_most(5) <= 0.05
    time.sleep(0.06)
    waits.report(Explanation("no storage yet", "name a class"))

    assert out.getvalue().splitlines() == [
        "wait  the image is pulled",
        "warn  no storage yet",
        "      name a class",
    ]
    assert waits.at_most(5) == 5
