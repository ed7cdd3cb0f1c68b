"""``verify`` finds every kind of damage, and ``fetch`` repairs only that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelstore import MARKER_NAME
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files
from tests.downloader.volume import file_names, leftovers, tree, write_files

UNET = "unet/diffusion_pytorch_model.safetensors"
CONFIG = "vae/config.json"


@pytest.fixture
def published(hub: Hub, job: Job, target: Path) -> Path:
    """The served folder, with the hub's record of requests cleared."""
    hub.repository(REPOSITORY).commit(pipeline_files())
    assert job.run().returncode == 0
    hub.requests.clear()
    return (target / "sd").resolve()


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / UNET).read_bytes())
    content[len(content) // 2] ^= 1
    times = (folder / UNET).stat()
    (folder / UNET).write_bytes(content)
    os.utime(folder / UNET, ns=(times.st_atime_ns, times.st_mtime_ns))


def truncate(folder: Path) -> None:
    os.truncate(folder / UNET, 100)


def lose(folder: Path) -> None:
    (folder / UNET).unlink()


def replace_by_a_folder(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, "does not match its published digest"),
        (truncate, "has 100 bytes, not 4,1"),
        (lose, "is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found_and_only_that_file_is_fetched(
    hub: Hub,
    job: Job,
    target: Path,
    published: Path,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    damage(published)
    others = {path: time for path, time in tree(published).items() if path.endswith("json")}

    found = job.verb("verify")
    assert found.returncode == 6
    assert f"sd: {UNET} {reason}" in found.stdout
    assert "error: damaged: sd; run fetch to repair" in found.stderr
    assert hub.requests == []

    repaired = job.run()
    assert repaired.returncode == 0, repaired.stderr
    assert set(hub.fetched) == {UNET}
    assert (published / UNET).read_bytes() == pipeline_files()[UNET]
    assert others.items() <= tree(published).items()
    assert (target / "sd").resolve() == published
    assert leftovers(target) == set()
    assert job.verb("verify").returncode == 0


def test_unlisted_files_are_found_and_deleted(hub: Hub, job: Job, published: Path) -> None:
    write_files(published, {"unet/diffusion_pytorch_model.bin": b"pickle"})
    (published / "link").symlink_to("/etc/passwd")

    found = job.verb("verify")
    assert found.returncode == 6
    assert "link is not listed; unet/diffusion_pytorch_model.bin is not listed" in found.stdout

    assert job.run().returncode == 0
    assert file_names(published) == set(pipeline_files()) | {MARKER_NAME}
    assert not (published / "link").is_symlink()
    assert hub.fetched == []


def test_the_operators_own_defaults_stay(job: Job, published: Path) -> None:
    write_files(published, {"generation_defaults.json": b'{"width": 512}'})

    assert job.verb("verify").returncode == 0
    assert "already published" in job.run().stdout
    assert (published / "generation_defaults.json").exists()


def test_a_damaged_file_is_replaced_and_not_written_to(job: Job, published: Path, hub: Hub) -> None:
    flip_a_bit(published)
    with (published / UNET).open("rb") as reader:
        before = reader.read(10)
        assert job.run().returncode == 0
        reader.seek(0)
        # A reader keeps the contents of its open file.
        assert reader.read(10) == before
        assert os.fstat(reader.fileno()).st_ino != (published / UNET).stat().st_ino


def test_a_small_file_is_repaired_by_the_markers_digest(
    hub: Hub, job: Job, published: Path
) -> None:
    write_files(published, {CONFIG: b"[]"})
    assert job.verb("verify").returncode == 6
    assert job.run().returncode == 0
    assert (published / CONFIG).read_bytes() == pipeline_files()[CONFIG]
    assert hub.fetched == [CONFIG]


def test_without_rehash_only_sizes_count(job: Job, published: Path) -> None:
    flip_a_bit(published)
    assert "already published" in job.run("--rehash", "false").stdout
    assert "already published" not in job.run().stdout


def test_a_folder_in_place_of_a_file_is_reported(job: Job, published: Path) -> None:
    replace_by_a_folder(published)
    assert f"{UNET} is missing" in job.verb("verify").stdout


def test_verify_prints_json_for_all_models(job: Job, published: Path) -> None:
    truncate(published)

    found = job.verb("verify", "--log-format", "json", DOWNLOADER_NAME="")

    (line,) = found.stdout.splitlines()
    document = json.loads(line)
    assert (document["event"], document["model"]) == ("damaged", "sd")
    assert list(document["damaged"]) == [UNET]
    error = json.loads(found.stderr.splitlines()[-1])
    assert (error["event"], error["exit_code"], error["level"]) == ("error", 6, "error")


def test_verify_without_a_model_is_not_found(job: Job, target: Path) -> None:
    assert job.verb("verify").returncode == 4
    assert job.verb("verify", DOWNLOADER_NAME="").returncode == 4
    assert job.verb("verify", DOWNLOADER_TARGET=str(target / "gone")).returncode == 1
