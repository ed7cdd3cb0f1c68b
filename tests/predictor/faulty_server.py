"""A predictor whose engine, loads and encoding fail or pause on demand.

Run it as ``python -m tests.predictor.faulty_server`` with the predictor's flags. A request's prompt
is either a fault, ``exit``, ``die`` or ``hang``, or ``pause at <stage>``. A pause logs the stage
and lasts until the file in ``FAULTY_GATE`` exists. ``FAULTY_LOAD`` pauses loads in the same way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predictor.__main__ import end_process, main
from predictor.engine import Engine
from predictor.engine.interfaces import Lane

GATE = Path(os.environ.get("FAULTY_GATE", "/nonexistent"))


def pause(stage: str) -> None:
    """Wait for the gate."""
    print(f"pausing at {stage}", file=sys.stderr, flush=True)
    while not GATE.exists():
        time.sleep(0.01)


class FaultyDenoiser:
    """A denoiser that obeys the prompts."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser
        self._stages: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def begin(self, request: Any) -> Any:
        if request.prompt == "exit":
            raise SystemExit
        if request.prompt == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if request.prompt == "hang":
            threading.Event().wait()
        self._stages.add(request.prompt.removeprefix("pause at "))
        self._reach("begin")
        return self._denoiser.begin(request)

    def predict(self, lanes: Sequence[Lane]) -> Any:
        self._reach("step")
        return self._denoiser.predict(lanes)

    def decode(self, latents: Any) -> Any:
        self._reach("decode")
        return self._denoiser.decode(latents)

    def finish(self, image: Any) -> Any:
        self._reach("finish")
        return self._denoiser.finish(image)

    def _reach(self, stage: str) -> None:
        if stage in self._stages:
            self._stages.remove(stage)
            pause(stage)


def open_faulty_engine(*arguments: Any) -> Engine:
    """Open the usual engine over a faulty denoiser."""
    from predictor.loading import engine

    if "FAULTY_LOAD" in os.environ:
        pause("load")
    own = engine.denoiser_for
    engine.denoiser_for = lambda pipeline: FaultyDenoiser(own(pipeline))  # type: ignore[assignment, return-value]
    return engine.open_engine(*arguments)


def pause_in_encode() -> None:
    """Pause before a picture with the prompt ``pause at encode`` is encoded."""
    from predictor.edge import model

    class PausingEncoder(model.ResponseEncoder):
        def __init__(self, call: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(call, *arguments, **options)
            self._pauses = call.pictures[0].request.prompt == "pause at encode"

        def add(self, index: int) -> None:
            if self._pauses:
                pause("encode")
            super().add(index)

    model.ResponseEncoder = PausingEncoder  # type: ignore[misc]


if __name__ == "__main__":
    pause_in_encode()
    end_process(main(open_engine=open_faulty_engine))
