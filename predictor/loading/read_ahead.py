"""Reads weights into the page cache while the process still imports packages.

Importing takes one core for seconds and hardly reads; reading takes a volume and hardly computes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelstore import IncompleteModelError, Marker, ModelStore
from modelstore.layout import ADAPTERS_FOLDER_NAME
from predictor.settings import Settings

logger = logging.getLogger(__name__)

# A network volume is only fast with several reads in flight.
_THREADS = 8
_PIECE_BYTES = 4 * 2**20
# Reading more of the machine's memory than this would evict what was read first.
_MOST_OF_MEMORY = 0.5

_buffers = threading.local()


def read_ahead(settings: Settings) -> threading.Thread:
    """Start to read the weights that the server loads first, in a thread that ends with them.

    It reports no error: the load reads the same files.
    """
    folders = [ModelStore(settings.model_dir).model(name) for name in settings.preload_names]
    return start_reading(_weights(folders or [settings.model_dir]))


def start_reading(paths: list[Path]) -> threading.Thread:
    """Start to read these files, unless they are too large for the machine's memory."""
    thread = threading.Thread(target=_read_all, args=(paths,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _weights(folders: Iterable[Path]) -> list[Path]:
    """Return the files that a load reads; adapters are loaded on first use."""
    paths: list[Path] = []
    for folder in folders:
        # A folder that is not published yet, or a volume without ``preload``.
        with contextlib.suppress(OSError, IncompleteModelError):
            paths += [
                folder / file.path
                for file in Marker.read(folder).files
                if file.path.endswith(".safetensors")
                and not file.path.startswith(f"{ADAPTERS_FOLDER_NAME}/")
            ]
    return paths


def _read_all(paths: list[Path]) -> None:
    started = time.perf_counter()
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("rb", buffering=0)).fileno() for path in paths]
        size = sum(os.fstat(file).st_size for file in files)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if not size or size > _MOST_OF_MEMORY * memory:
            return
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS))
        list(threads.map(_read, *zip(*_pieces(files), strict=True)))
        seconds = time.perf_counter() - started
        logger.info("read %.2f GB of weights ahead of the load in %.1f s", size / 1e9, seconds)


def _pieces(files: Iterable[int]) -> Iterator[tuple[int, int]]:
    for file in files:
        for offset in range(0, os.fstat(file).st_size, _PIECE_BYTES):
            yield file, offset


def _read(file: int, offset: int) -> None:
    if not hasattr(_buffers, "piece"):
        _buffers.piece = bytearray(_PIECE_BYTES)
    os.preadv(file, [_buffers.piece], offset)
