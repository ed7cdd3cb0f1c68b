"""Repeatedly starts two downloads of one name at once, in forked processes.

``python -m tests.downloader.racers ROUNDS SOURCE TARGET`` prints a line for each round: the two
exit codes, the number of publications, and what is left over.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path

from downloader import __main__ as program
from downloader.verbs import fetching  # noqa: F401  # loaded before the forks
from tests.downloader.volume import leftovers, revisions


def race(source: str, target: Path) -> str:
    """One round, starting with an empty volume."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    start_read, start_write = os.pipe()
    racers = [_fork(source, target, start_read) for _ in range(2)]
    os.write(start_write, b"go")
    codes = [os.waitstatus_to_exitcode(os.waitpid(racer, 0)[1]) for racer in racers]
    logs = "".join((target.parent / f"log.{racer}").read_text() for racer in racers)
    published = logs.count(" published ")
    return f"{codes} {published} {len(revisions(target))} {sorted(leftovers(target))}"


def _fork(source: str, target: Path, start: int) -> int:
    racer = os.fork()
    if racer:
        return racer
    with (target.parent / f"log.{os.getpid()}").open("w") as log:
        sys.stderr = log
        sys.argv = ["downloader", "--source", source, "--name", "sd", "--target", str(target)]
        os.read(start, 1)
        with contextlib.redirect_stdout(io.StringIO()):
            code = program.main()
    os._exit(code)


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        print(race(sys.argv[2], Path(sys.argv[3])), flush=True)
