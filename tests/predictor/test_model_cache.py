"""What a start reuses of earlier ones, and that nothing in the shared folder can stop it."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import clear_caches

from modelstore import FileEntry, Marker
from predictor.loading import model_cache
from predictor.loading.cache_facts import facts_of, key_of
from predictor.loading.compilation import compile_denoiser, has_compiler
from predictor.loading.convolutions import Convolutions
from predictor.loading.engine import Learned
from predictor.loading.model_cache import ModelCache, open_cache
from predictor.pipelines.tuning import Tuning
from predictor.requests import GenerationDefaults, ModelProfile
from predictor.settings import Settings
from tests.waiting import wait_until

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 2, 5.0, "default"), 8, ("default",))
FACTS = {"torch": "2", "revision": "r1"}
VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
MARKER = Marker("m", "s", "r1", None, "", (FileEntry("unet.safetensors", 1, "abc"),))


@pytest.fixture(autouse=True)
def own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "unused"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shared"


class Pod:
    """A pod with a private folder of kernels."""

    def __init__(self, root: Path, facts: dict[str, str] | None = None) -> None:
        self.local = model_cache._private_folder()
        self.cache = ModelCache(root, facts or FACTS, self.local)
        self.cache.restore()

    @property
    def kernels(self) -> dict[str, str]:
        files = (path for path in self.local.rglob("*") if path.is_file())
        found = {path.relative_to(self.local).as_posix(): path.read_text() for path in files}
        return {name: text for name, text in found.items() if name != "facts.json"}

    def compile(self, name: str = "torchinductor/ab/kernel.so", text: str = "code") -> None:
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def archive(root: Path) -> Path:
    return root / f"{key_of(FACTS)}.zip"


def notes(root: Path) -> Path:
    return root / f"{key_of(FACTS)}.json"


def first_pod(root: Path) -> Pod:
    pod = Pod(root)
    pod.compile()
    pod.compile("triton/cubin", "more code")
    pod.compile("torchinductor/locks/any.lock", "a lock")
    pod.cache.publish()
    pod.cache.save_batch(16)
    return pod


def test_a_second_pod_has_the_kernels_and_the_batch_of_the_first(root: Path) -> None:
    first = first_pod(root)
    second = Pod(root)

    assert first.cache.batch is None
    assert second.cache.batch == 16
    assert second.kernels == {"torchinductor/ab/kernel.so": "code", "triton/cubin": "more code"}
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == second.local / "torchinductor"
    assert sorted(path.suffix for path in root.iterdir()) == [".json", ".zip"]


def test_another_key_has_nothing_of_the_first(root: Path) -> None:
    first_pod(root)
    other = Pod(root, FACTS | {"torch": "3"})

    assert (other.kernels, other.cache.batch) == ({}, None)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)


def of_other_facts(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("facts.json", json.dumps({"torch": "1"}))
        written.writestr("torchinductor/old.so", "old code")


def outside_the_folder(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("facts.json", json.dumps(FACTS))
        written.writestr("../../outside", "code")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\0" * 1000),
        lambda path: (path.unlink(), path.mkdir()),
        flip_a_byte,
        of_other_facts,
    ],
)
def test_damaged_kernels_mean_a_start_without_them_and_one_line(
    damage: Callable[[Path], object], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first_pod(root)
    damage(archive(root))

    pod = Pod(root)

    assert pod.kernels == {}
    assert all((pod.local / name).is_dir() for name in ("torchinductor", "triton", "cuda"))
    assert pod.cache.batch == 16
    (line,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    assert line.getMessage().startswith("starting without cached kernels: ")


def test_a_damaged_archive_is_replaced(root: Path) -> None:
    first_pod(root)
    archive(root).write_bytes(b"damaged")
    second = Pod(root)
    second.compile("torchinductor/new", "new code")
    second.cache.publish()

    assert Pod(root).kernels == {"torchinductor/new": "new code"}


def test_a_file_stays_within_the_private_folder(root: Path) -> None:
    root.mkdir()
    outside_the_folder(archive(root))
    pod = Pod(root)

    assert not (pod.local.parent / "outside").exists()
    assert not (pod.local.parent.parent / "outside").exists()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "null", '{"batch": 16}', "\0", "9" * 5000),
        json.dumps({"facts": FACTS | {"torch": "1"}, "batch": 16}),
        *(json.dumps({"facts": FACTS, "batch": one}) for one in (0, -1, 1e9, "16", True, None)),
    ],
)
def test_a_damaged_batch_size_is_ignored_with_one_line(
    text: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first_pod(root)
    notes(root).write_text(text)

    pod = Pod(root)

    assert pod.cache.batch is None
    assert len(pod.kernels) == 2
    (line,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    assert line.getMessage().startswith("starting without the cache: ")


def test_a_folder_that_cannot_be_written_is_one_line_for_each_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in its place fails like a read-only mount, also for root."""
    (tmp_path / "file").touch()
    first_pod(tmp_path / "file" / "shared")

    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.partition(":")[0] for one in warnings] == [
        "the kernels are not cached",
        "the batch size is not cached",
    ]


def test_without_new_kernels_nothing_is_written(root: Path) -> None:
    first_pod(root)
    before = archive(root).stat().st_ino
    second = Pod(root)
    second.cache.publish()
    assert archive(root).stat().st_ino == before

    second.compile("torchinductor/another")
    second.cache.publish()
    assert archive(root).stat().st_ino != before
    assert len(Pod(root).kernels) == 3


def test_pods_that_write_at_the_same_time_leave_one_complete_archive(root: Path) -> None:
    pods = [Pod(root) for _ in range(4)]
    for pod in pods:
        pod.compile(text="code" * 100_000)
    threads = [threading.Thread(target=pod.cache.publish) for pod in pods]
    for thread in threads:
        thread.start()
    # Each time, either nothing or everything.
    while any(thread.is_alive() for thread in threads):
        assert list(Pod(root).kernels.values()) in ([], ["code" * 100_000])
    assert list(Pod(root).kernels.values()) == ["code" * 100_000]


def test_the_folder_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "_MAX_FOLDER_BYTES", 1500)
    root.mkdir()
    (root / ".abandoned.unfinished").touch()
    os.utime(root / ".abandoned.unfinished", (0, 0))
    for age in (2, 1, 0):
        pod = Pod(root, FACTS | {"torch": str(age)})
        pod.compile(text=os.urandom(250).hex())
        pod.cache.publish()
        newest = max(root.glob("*.zip"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (time.time() - age * 1000,) * 2)

    assert len(Pod(root, FACTS | {"torch": "0"}).kernels) == 1
    assert Pod(root, FACTS | {"torch": "2"}).kernels == {}
    assert not (root / ".abandoned.unfinished").exists()
    assert sum(path.stat().st_size for path in root.iterdir()) <= 1500


def test_what_engines_have_learned_is_bounded_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler there are no archives, but each revision of a model has its notes."""
    monkeypatch.setattr(model_cache, "_MAX_FOLDER_BYTES", 200)
    for age in (2, 1, 0):
        facts = FACTS | {"torch": str(age)}
        Pod(root, facts).cache.save_batch(16)
        os.utime(root / f"{key_of(facts)}.json", (time.time() - age * 1000,) * 2)

    batches = [Pod(root, FACTS | {"torch": str(age)}).cache.batch for age in (2, 1, 0)]
    assert batches == [None, 16, 16]


def test_too_many_kernels_are_not_cached(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_cache, "_MAX_KERNEL_BYTES", 100)
    pod = Pod(root)
    pod.compile(text="code" * 100)
    pod.cache.publish()

    assert not root.exists()
    assert "the kernels are not cached: they take 400 bytes" in caplog.text


@pytest.mark.parametrize(
    ("marker", "settings"),
    [
        (replace(MARKER, revision="r2"), {}),
        (replace(MARKER, files=(FileEntry("unet.safetensors", 1, "abd"),)), {}),
        (MARKER, {"channels_last": True}),
        (MARKER, {"compile_shapes": "64x64"}),
        (MARKER, {"max_lanes": 8}),
        (MARKER, {"cuda_graphs": "off"}),
    ],
)
def test_the_key_depends_on_the_model_and_the_settings(
    marker: Marker, settings: dict[str, object]
) -> None:
    usual = facts_of(MARKER, Settings())
    other = facts_of(marker, Settings(**settings))

    assert key_of(usual) == key_of(facts_of(MARKER, Settings(max_side=512)))
    assert key_of(other) != key_of(usual)
    assert {"torch", "driver", "gpu", "cpu", "threads", "python"} <= usual.keys()


def test_without_a_folder_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_cache(None, MARKER, Settings()) is None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("unused")


def test_a_model_that_is_loaded_again_does_not_unpack_its_kernels_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    private_folder = model_cache._private_folder

    def noted() -> Path:
        made.append(private_folder())
        return made[-1]

    monkeypatch.setattr(model_cache, "_private_folder", noted)
    first = open_cache(root, MARKER, Settings())
    assert first is not None
    (first.local / "triton" / "cubin").write_text("code")
    first.publish()
    other = open_cache(root, replace(MARKER, revision="r2"), Settings())
    again = open_cache(root, MARKER, Settings())

    assert again is first is not other
    assert [path.exists() for path in made] == [True, True, False]
    assert Path(os.environ["TRITON_CACHE_DIR"]) == first.local / "triton"
    assert (first.local / "triton" / "cubin").read_text() == "code"


def test_kernels_are_published_once(root: Path) -> None:
    pod = first_pod(root)
    archive(root).unlink()
    pod.cache.publish()

    assert not archive(root).exists()


def test_an_engine_starts_from_the_cache_and_keeps_what_it_learns(root: Path) -> None:
    first_pod(root)
    learned = Learned()
    learned.use(Path("model"), Pod(root).cache)
    start = learned.start(Path("model"), first=2, largest=64)
    assert (start.best, start.is_settled) == (16, True)

    start.on_learned(32)
    wait_until(lambda: json.loads(notes(root).read_text())["batch"] == 32)
    unknown = learned.start(Path("other"), first=2, largest=64)
    assert (unknown.best, unknown.is_settled) == (2, False)


def test_the_convolutions_of_a_model_are_measured_by_one_pod(root: Path) -> None:
    measured: list[Convolutions] = []

    def measure() -> Convolutions:
        measured.append(Convolutions(channels_last=True))
        return measured[-1]

    for _ in range(2):
        learned, cache = Learned(), Pod(root).cache
        learned.use(Path("model"), cache)
        found = learned.convolutions(Path("model"), measure)
        assert found == Convolutions(channels_last=True, searches=False)
        cache.save_batch(16)

    assert len(measured) == 1
    assert Pod(root).cache.batch == 16


class Halves(torch.nn.Module):
    """A denoiser of one kernel, which compiles in a second."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.sin() / 2


@pytest.fixture
def no_memory_of_kernels() -> Iterator[Callable[[], None]]:
    """Forgets what the process has compiled, as in a new one."""

    def forget() -> None:
        torch.compiler.reset()
        clear_caches()
        counters.clear()

    forget()
    yield forget
    forget()


@pytest.mark.skipif(not has_compiler("cpu"), reason="requires a C++ compiler")
# torch's compiler uses deprecated functions of torch.
@pytest.mark.filterwarnings("ignore:.*is deprecated.*:DeprecationWarning")
def test_the_second_pod_compiles_nothing(
    root: Path, no_memory_of_kernels: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    run = torch._inductor.cpp_builder.run_compile_cmd

    def counted(command: str, *rest: Any, **options: Any) -> Any:
        commands.append(command)
        return run(command, *rest, **options)

    monkeypatch.setattr(torch._inductor.cpp_builder, "run_compile_cmd", counted)

    def start() -> tuple[Pod, torch.Tensor]:
        no_memory_of_kernels()
        pod, unet = Pod(root), Halves()
        loaded: Any = SimpleNamespace(
            diffusers=SimpleNamespace(unet=unet), profile=PROFILE, tuning=Tuning(compile=True)
        )
        compile_denoiser(
            loaded, Settings(), [lambda request: unet(torch.ones(2, 4))], pod.cache.compiled
        )
        return pod, unet(torch.ones(3, 4))

    first, expected = start()
    assert counters["stats"]["unique_graphs"] == 1
    assert commands
    first.cache.publish()
    commands.clear()

    second, drawn = start()
    # Torch does not even trace the network.
    assert counters["stats"]["unique_graphs"] == 0
    assert commands == []
    assert torch.equal(drawn, expected)
    # Nothing new to publish.
    before = archive(root).stat().st_ino
    second.cache.publish()
    assert archive(root).stat().st_ino == before
