"""What a start reuses of earlier ones: compiled kernels, and what the engine has learned.

The shared folder has two files for each key: the kernels in an archive, the rest in JSON. A pod
works on a private copy of the kernels and publishes a new archive with one rename, so that others
may read and write at the same time. Nothing here is needed to serve: any problem is one line in
the log. The kernels are programs, so only trusted pods may write to the folder.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from modelstore import Marker
from predictor.loading.cache_facts import facts_of, key_of
from predictor.settings import Settings

logger = logging.getLogger(__name__)

# Read by torch at each compilation, by Triton likewise, and by CUDA's driver.
_FOLDERS = {
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
}
# Of the model's own code, which uses those kernels.
_COMPILED = "compiled"
# Only of use while something compiles.
_NOT_SHARED = {"locks", "precompiled_headers"}
_FACTS = "facts.json"
# Of the two files of a key.
_SUFFIXES = (".zip", ".json")
# Of the kernels of one model, unpacked, and of everything in the folder.
_MAX_KERNEL_BYTES = 2 << 30
_MAX_FOLDER_BYTES = 4 << 30
_MAX_JSON_BYTES = 1 << 16
_MAX_BATCH = 10_000
_NOTES = ("batch", "convolutions")
# An unfinished file is older than this only if its pod has been killed.
_ABANDONED_SECONDS = 3600.0

# Of this process, by folder and key: a model that is loaded again finds its kernels in place.
_opened: dict[tuple[Path, str], ModelCache] = {}


class ModelCache:
    """The cached files of one model under one set of ``facts`` in the folder ``root``.

    ``local`` is the private copy of the kernels. ``batch`` is the largest batch that an earlier
    engine has learned, and ``convolutions`` how it ran convolutions, by option; both are None if
    they are unknown.
    """

    def __init__(self, root: Path, facts: Mapping[str, str], local: Path) -> None:
        self._root = root
        self._facts = dict(facts)
        self.local = local
        key = key_of(facts)
        self._archive = root / f"{key}.zip"
        self._notes = root / f"{key}.json"
        self._restored: set[str] = set()
        self._writing = threading.Lock()
        self.batch: int | None = None
        self.convolutions: dict[str, bool] | None = None
        self._learned: dict[str, object] = {}

    @property
    def compiled(self) -> Path:
        """The folder for compiled code of the model, in the private copy."""
        return self.local / _COMPILED

    def restore(self) -> None:
        """Unpack the kernels and read the notes; after a problem, there are none."""
        with _problems("starting without the cache"):
            self._read_notes()
        try:
            with _problems("starting without cached kernels"):
                self._unpack()
        finally:
            if not self._restored:
                _empty(self.local)
        logger.info(
            "from the cache: %d files of kernels; %s",
            *(len(self._restored), f"batch size {self.batch}" if self.batch else "no batch size"),
        )

    def publish(self) -> None:
        """Archive the kernels for later starts, unless there are no new ones."""
        with self._writing, _problems("the kernels are not cached"):
            files = dict(self._kernels())
            if not files.keys() - self._restored:
                return
            total = sum(path.stat().st_size for path in files.values())
            if total > _MAX_KERNEL_BYTES:
                raise ValueError(f"they take {total} bytes; the limit is {_MAX_KERNEL_BYTES}")
            with self._replacing(self._archive) as path:
                _pack(path, files, self._facts)
            self._restored |= files.keys()
            logger.info("cached %d files of kernels, %d bytes", len(files), total)

    def save_batch(self, batch: int) -> None:
        """Keep what the engine has learned for later starts."""
        with self._writing, _problems("the batch size is not cached"):
            self._write_notes(batch=batch)

    def save_convolutions(self, options: Mapping[str, bool]) -> None:
        """Keep how convolutions run fastest for later starts."""
        with self._writing, _problems("the measurement of convolutions is not cached"):
            self._write_notes(convolutions=dict(options))

    def _write_notes(self, **learned: object) -> None:
        self._learned |= learned
        text = json.dumps({"facts": self._facts, **self._learned}, indent=2)
        with self._replacing(self._notes) as path:
            path.write_text(text, "utf-8")

    def _read_notes(self) -> None:
        if not self._notes.exists():
            return
        with self._notes.open("rb") as stream:
            notes = json.loads(stream.read(_MAX_JSON_BYTES))
        if not isinstance(notes, dict):
            raise ValueError(f"{self._notes.name} is not a JSON object")
        self._check(notes.get("facts"))
        batch, options = notes.get("batch"), notes.get("convolutions")
        if "batch" in notes and not (type(batch) is int and 0 < batch <= _MAX_BATCH):
            raise ValueError(f"{self._notes.name} has no valid batch size")
        if "convolutions" in notes and not _are_switches(options):
            raise ValueError(f"{self._notes.name} has no valid options of convolutions")
        self.batch, self.convolutions = batch, options
        self._learned = {name: one for name, one in notes.items() if name in _NOTES}

    def _unpack(self) -> None:
        if not self._archive.exists():
            return
        with zipfile.ZipFile(self._archive) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MAX_KERNEL_BYTES:
                raise ValueError(f"{self._archive.name} is larger than {_MAX_KERNEL_BYTES} bytes")
            self._check(json.loads(archive.read(_FACTS)))
            # Verifies the checksum of each file, and keeps each within the folder.
            archive.extractall(self.local)
        self._restored = {member.filename for member in members} - {_FACTS}

    def _check(self, facts: Any) -> None:
        if facts != self._facts:
            raise ValueError("it was written for another model, machine or version")

    def _kernels(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.local.rglob("*")):
            name = path.relative_to(self.local)
            is_shared = _NOT_SHARED.isdisjoint(name.parts) and path.suffix != ".lock"
            if is_shared and name.name != _FACTS and path.is_file() and not path.is_symlink():
                yield name.as_posix(), path

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        """A path for new contents of ``path``, which others see only when they are complete."""
        self._root.mkdir(parents=True, exist_ok=True)
        unfinished = self._root / f".{uuid.uuid4().hex}.unfinished"
        try:
            yield unfinished
            with unfinished.open("rb") as stream:
                os.fsync(stream.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._prune()

    def _prune(self) -> None:
        """Remove what killed pods left behind, and the oldest keys above the limit."""
        now = time.time()
        keys: dict[str, list[_File]] = {}
        for file in _files(self._root):
            if file.path.suffix in _SUFFIXES:
                keys.setdefault(file.path.stem, []).append(file)
            elif file.path.suffix == ".unfinished" and now - file.modified > _ABANDONED_SECONDS:
                file.path.unlink(missing_ok=True)
        used = 0
        for files in sorted(keys.values(), key=_last_use, reverse=True):
            used += sum(file.size for file in files)
            if used > _MAX_FOLDER_BYTES and files[0].path.stem != self._archive.stem:
                for file in files:
                    file.path.unlink(missing_ok=True)


class _File(NamedTuple):
    path: Path
    modified: float
    size: int


def _files(folder: Path) -> Iterator[_File]:
    for path in folder.iterdir():
        # Other pods remove files too.
        with suppress(FileNotFoundError):
            state = path.stat()
            yield _File(path, state.st_mtime, state.st_size)


def _last_use(files: Sequence[_File]) -> float:
    return max(file.modified for file in files)


def _are_switches(options: Any) -> bool:
    return isinstance(options, dict) and all(type(one) is bool for one in options.values())


def open_cache(root: Path | None, marker: Marker, settings: Settings) -> ModelCache | None:
    """Restore the cache of the published model; None without a folder, or if it is not usable."""
    if root is None:
        return None
    with _problems("starting without the cache"):
        # Before the GPU is used: CUDA's driver reads its variable once.
        local = _private_folder()
        facts = facts_of(marker, settings)
        cache = ModelCache(root, facts, local)
        opened = _opened.setdefault((root, key_of(facts)), cache)
        if opened is cache:
            cache.restore()
        else:
            shutil.rmtree(local, ignore_errors=True)
            _use(opened.local)
        return opened
    return None


def _private_folder() -> Path:
    """A new folder for compiled kernels until the process ends, which the libraries then use."""
    folder = Path(tempfile.mkdtemp(prefix="predictor-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _use(folder)
    _empty(folder)
    return folder


def _use(folder: Path) -> None:
    """Let the libraries look for kernels there from now on."""
    for variable, name in _FOLDERS.items():
        os.environ[variable] = str(folder / name)


def _empty(folder: Path) -> None:
    """Remove everything but the empty folders that the libraries expect."""
    for name in (*_FOLDERS.values(), _COMPILED):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)


def _pack(path: Path, files: Mapping[str, Path], facts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(_FACTS, json.dumps(facts))
        for name, file in files.items():
            archive.write(file, name)


@contextmanager
def _problems(consequence: str) -> Iterator[None]:
    """Log what goes wrong in one line: the folder may be read-only, full or hold anything."""
    try:
        yield
    except Exception as error:
        logger.warning("%s: %s", consequence, str(error) or type(error).__name__)
