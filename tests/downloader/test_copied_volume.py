"""The copies of a volume that docs/volumes.md and docs/air-gap.md describe, with the demo model."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.downloader.conftest import ROOT
from tests.downloader.job import Job

DEMO = ROOT / "demo" / "model"
# Every model, as outside of a Job.
ALL = {"DOWNLOADER_NAME": ""}


@pytest.fixture
def volume(job: Job, tmp_path: Path) -> Path:
    """A volume with the model `sdxl`."""
    return filled(job, tmp_path / "volume", DEMO)


def filled(job: Job, target: Path, source: Path) -> Path:
    target.mkdir()
    flags = [f"--source={source.as_uri()}", "--name=sdxl", f"--target={target}"]
    done = job.run(*flags)
    assert done.returncode == 0, done.stderr
    return target


def shell(command: str, folder: Path) -> None:
    subprocess.run(["bash", "-euc", command], cwd=folder, check=True)


def is_intact(job: Job, volume: Path) -> bool:
    done = job.verb("verify", f"--target={volume}", **ALL)
    return done.returncode == 0 and "files match the marker" in done.stdout


def test_tar_keeps_the_links_of_a_volume(job: Job, volume: Path) -> None:
    shell("mkdir copy && tar -C volume -cf - . | tar -C copy -xf -", volume.parent)

    copy = volume.with_name("copy")
    assert (copy / "sdxl").is_symlink()
    assert is_intact(job, copy)


def test_a_published_folder_is_a_source_for_an_image(job: Job, volume: Path) -> None:
    shell("mkdir weights && cp -RL volume/sdxl weights/sdxl", volume.parent)

    weights = volume.with_name("weights") / "sdxl"
    assert not weights.is_symlink()
    assert is_intact(job, filled(job, volume.with_name("second"), weights))


def test_the_list_begins_with_the_served_model(job: Job, volume: Path) -> None:
    done = job.verb("list", f"--target={volume}", **ALL)

    assert done.stdout.startswith("* sdxl")
