"""Weights are read into the page cache from the start of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelstore import Marker
from modelstore.marker import FileEntry
from predictor.loading.read_ahead import read_ahead
from predictor.settings import Settings
from tests.serving import MODEL_NAME, ROOT

MIB = 2**20

# The main function until it imports the server.
PROGRAM = """
import sys
from predictor import __main__ as program

def read_ahead(settings):
    print("read", settings.model_dir, *{"torch", "kserve", "diffusers"} & sys.modules.keys())

def import_modules(*names):
    print("import", *names)
    raise SystemExit

program.read_ahead, program.import_modules = read_ahead, import_modules
program.main(["--model_dir=/volume/model"])
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with one model, which has 32 MiB of weights and an adapter of 64 MiB."""
    folder = tmp_path / MODEL_NAME
    sizes = {"unet/model.safetensors": 32 * MIB, "adapters/style.safetensors": 64 * MIB}
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(os.urandom(size))
    files = tuple(FileEntry(name, size, "") for name, size in sizes.items())
    Marker(MODEL_NAME, "any", "r1", None, "", files).write(folder)
    return tmp_path


def bytes_read(settings: Settings) -> int:
    """How much this process reads meanwhile (``rchar`` of proc_pid_io(5))."""
    before = _read_so_far()
    read_ahead(settings).join()
    return _read_so_far() - before


def _read_so_far() -> int:
    return int(Path("/proc/self/io").read_text().partition("rchar:")[2].split()[0])


def test_the_weights_of_the_model_are_read_but_not_its_adapters(volume: Path) -> None:
    read = bytes_read(Settings(model_dir=volume / MODEL_NAME))

    assert 32 * MIB <= read < 40 * MIB


def test_reading_begins_before_the_server_and_its_packages_are_imported() -> None:
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert output.splitlines() == ["read /volume/model", "import predictor.edge.server"]


def test_the_weights_of_preloaded_models_are_read(volume: Path) -> None:
    read = bytes_read(Settings(model_dir=volume, preload=MODEL_NAME))

    assert 32 * MIB <= read < 40 * MIB


@pytest.mark.parametrize("preload", ["", "missing"])
def test_other_models_of_a_volume_are_not_read(volume: Path, preload: str) -> None:
    assert bytes_read(Settings(model_dir=volume, preload=preload)) < MIB


def test_weights_that_exceed_the_memory_are_not_read(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictor.loading.read_ahead._MOST_OF_MEMORY", 1e-9)

    assert bytes_read(Settings(model_dir=volume / MODEL_NAME)) < MIB


def test_a_file_that_cannot_be_read_is_left_to_the_load(volume: Path) -> None:
    (volume / MODEL_NAME / "unet" / "model.safetensors").unlink()

    assert bytes_read(Settings(model_dir=volume / MODEL_NAME)) < MIB
