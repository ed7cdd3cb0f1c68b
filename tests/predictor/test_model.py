"""Loading a model: its thread, the remembered capacity and the size of the weights."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from modelstore import FileEntry, Marker
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError
from predictor.loading.engine import Learned
from predictor.loading.memory import expected_bytes
from predictor.residency.room import in_own_thread
from predictor.settings import Settings
from tests.waiting import wait_until


def test_the_loading_thread_ends_after_its_work() -> None:
    assert asyncio.run(in_own_thread(lambda name: threading.current_thread().name, "any"))

    # Its OpenMP pool would slow the engine down.
    wait_until(lambda: not any(one.name.startswith("loader") for one in threading.enumerate()))


def test_a_reloaded_model_starts_from_what_its_engine_has_learned() -> None:
    learned, folder = Learned(), Path("/volume/one")

    first = learned.start(folder, first=2, largest=16)
    first.on_learned(8)
    again = learned.start(folder, first=2, largest=16)
    elsewhere = learned.start(Path("/volume/other"), first=2, largest=16)

    assert (first.best, first.is_settled) == (2, False)
    assert (again.best, again.is_settled) == (8, True)
    assert (elsewhere.best, elsewhere.is_settled) == (2, False)


def test_the_expected_bytes_are_those_of_the_weights_in_their_run_time_type(
    demo_model: Path,
) -> None:
    checkpoint = Checkpoint.read(demo_model)
    files = demo_model.glob("*/*.safetensors")
    numbers = sum(tensor.size for path in files for tensor in load_file(path).values())

    assert expected_bytes(checkpoint, Settings(device="cpu")) == 4 * numbers
    assert expected_bytes(checkpoint, Settings(device="cpu", dtype="bfloat16")) == 2 * numbers


def test_weights_with_a_damaged_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "unet.safetensors").write_bytes(b"\xff" * 64)
    Marker("m", "s", "r", None, "", (FileEntry("unet.safetensors", 64, ""),)).write(tmp_path)

    with pytest.raises(ModelLoadError, match=r"the weights cannot be read: .*header"):
        expected_bytes(Checkpoint.read(tmp_path), Settings(device="cpu"))
