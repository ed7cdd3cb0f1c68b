"""One reader process, as the server sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

from PIL import Image

from predictor.errors import BodyReaderKilledError, GenerationFailedError, InvalidRequestError
from predictor.intake.frames import receive, send
from predictor.requests import InputImage

# How far below the priority of the server, whose engine computes and whose models load.
_NICE = 5
# Threads of a mathematics library would only take memory.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


class ReaderProcess:
    """A child process that runs ``reader.py``; one thread at a time uses it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "predictor.intake.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C in a terminal is for the server, which ends its readers itself.
            process_group=0,
        )
        # Relative, because an unprivileged process cannot raise a priority.
        os.setpriority(os.PRIO_PROCESS, self._process.pid, min(os.nice(0) + _NICE, 19))

    @property
    def pid(self) -> int:
        """The identifier of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can take another body."""
        return self._process.poll() is None

    def ask(self, header: dict[str, Any], content: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send one message and wait for its answer.

        Raises:
            InvalidRequestError: the request is invalid, or takes too much to read.
            GenerationFailedError: the reader failed (a bug).
            BodyReaderKilledError: another process killed the reader.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            send(self._process.stdin, header, content)
            answer, bytes_read = receive(self._process.stdout)
        except (OSError, EOFError, ValueError):
            raise self._death(header.get("field", "")) from None
        if "reason" in answer:
            raise InvalidRequestError(answer["field"], answer["reason"])
        if "failed" in answer:
            raise GenerationFailedError("reading the body failed; the server's log has the cause")
        return answer, bytes_read

    def _death(self, field: str) -> Exception:
        self.kill()
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return InvalidRequestError(field, "takes too much CPU time to read")
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            return BodyReaderKilledError(
                "the process that reads pictures was killed, perhaps because the container has "
                "no memory left; try again"
            )
        return InvalidRequestError(field, "crashes its decoder; send it in another format")

    def kill(self) -> None:
        """End the process at once, whatever it does; safe from any thread."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and free its pipes."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            # Part of a message may be left, and its reader is gone.
            with contextlib.suppress(OSError):
                stream.close()


class RemoteImages:
    """A ``PictureSource`` whose pictures are decoded in a reader process."""

    def __init__(self, process: ReaderProcess) -> None:
        self._process = process
        self._read: dict[tuple[str, str, tuple[int, int]], InputImage] = {}

    def size(self, field: str, text: str) -> tuple[int, int]:
        """See ``InputImages.size``."""
        answer, _ = self._process.ask({"ask": "size", "field": field}, text.encode())
        width, height = answer["size"]
        return width, height

    def picture(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.picture``."""
        return self._at_size("picture", field, text, size)

    def mask(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.mask``."""
        return self._at_size("mask", field, text, size)

    def transparency(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.transparency``."""
        return self._at_size("transparency", field, text, size)

    def _at_size(self, kind: str, field: str, text: str, size: tuple[int, int]) -> InputImage:
        key = (kind, text, size)
        if key not in self._read:
            header = {"ask": kind, "field": field, "width": size[0], "height": size[1]}
            answer, pixels = self._process.ask(header, text.encode())
            image = Image.frombytes(answer["mode"], size, pixels)
            self._read[key] = InputImage(image, answer["sha256"])
        return self._read[key]
