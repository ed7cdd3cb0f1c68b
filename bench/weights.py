"""Compare ways to read safetensors files into memory of the process.

``python -m bench.weights`` prints the figures and writes them to ``bench/results/weights.json``.
Each way runs in its own process, in turns with the others, on the same files: after dropping them
from the page cache, and with the files in it. fastsafetensors and Run:ai's streamer take part if
they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.start import OUTPUT, ROOT, drop_from_page_cache

RESULTS = ROOT / "bench" / "results" / "weights.json"
FOLDER = OUTPUT / "weights"
_THREADS = 8
# As in the denoiser of SDXL: most weights are in matrices of this size.
_SHAPE = (1280, 5120)
_FILE_BYTES = 2**30


def mapped(paths: list[Path]) -> Iterator[Any]:
    """As diffusers reads: map the files, and copy one tensor after another."""
    from safetensors.torch import load_file

    for path in paths:
        yield from (tensor.clone() for tensor in load_file(path).values())


def read_ahead(paths: list[Path]) -> Iterator[Any]:
    """Read the files into the page cache in threads, while tensors are copied as in ``mapped``."""
    from predictor.loading.read_ahead import start_reading

    start_reading(paths)
    yield from mapped(paths)


def mapped_in_threads(paths: list[Path]) -> Iterator[Any]:
    """Map the files, and copy tensors in threads."""
    from safetensors.torch import load_file

    with ThreadPoolExecutor(_THREADS) as threads:
        for path in paths:
            yield from threads.map(lambda tensor: tensor.clone(), load_file(path).values())


def pread(paths: list[Path]) -> Iterator[Any]:
    """Read into new tensors in threads, without the page cache's mapping."""
    import torch

    def read(path: Path, begin: int, end: int) -> Any:
        tensor = torch.empty(end - begin, dtype=torch.uint8)
        with path.open("rb", buffering=0) as file:
            os.preadv(file.fileno(), [memoryview(tensor.numpy())], begin)
        return tensor.view(torch.bfloat16)

    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda piece: read(*piece), _tensors(paths))


def fastsafetensors(paths: list[Path]) -> Iterator[Any]:
    """fastsafetensors, without GPUDirect storage; its tensors own the buffer that it fills."""
    from fastsafetensors import fastsafe_open  # type: ignore[import-not-found,unused-ignore]

    with fastsafe_open([str(path) for path in paths], device="cpu", nogds=True) as files:
        for name in files.keys():  # noqa: SIM118 - not a dict
            yield files.get_tensor(name)


def runai(paths: list[Path]) -> Iterator[Any]:
    """Run:ai's model streamer, whose tensors are views of a buffer that it uses again."""
    from runai_model_streamer import (  # type: ignore[import-not-found,unused-ignore]
        SafetensorsStreamer,
    )

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in paths])
        for _, tensor in streamer.get_tensors():
            yield tensor.clone()


WAYS: dict[str, Callable[[list[Path]], Iterator[Any]]] = {
    "mapped": mapped,
    "read_ahead": read_ahead,
    "mapped_in_threads": mapped_in_threads,
    "pread": pread,
    "fastsafetensors": fastsafetensors,
    "runai": runai,
}
_PACKAGES = {"fastsafetensors": "fastsafetensors", "runai": "runai_model_streamer"}


def main() -> None:
    """Measure, print, write; with ``--way``, as a child process, only one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--gigabytes", type=int, nargs="*", default=[2, 7])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(timed(options.way, files(options.gigabytes[0]))))
        return
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for size in options.gigabytes:
        result[f"{size} GB"] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "rounds": options.rounds,
            "ways": compare(size, options.rounds),
        }
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compare(gigabytes: int, rounds: int) -> dict[str, Any]:
    """Medians of the seconds and CPU seconds of each way, cold and warm."""
    paths = files(gigabytes)
    ways = [way for way in WAYS if way not in _PACKAGES or _is_installed(_PACKAGES[way])]
    found: dict[str, dict[str, list[dict[str, float]]]] = {way: {} for way in ways}
    for _ in range(rounds):
        for way in ways:
            drop_from_page_cache(paths)
            for cache in ("cold", "warm"):
                found[way].setdefault(cache, []).append(_in_child(way, gigabytes))
                print(gigabytes, way, cache, found[way][cache][-1], flush=True)
    return {
        way: {cache: _medians(runs) for cache, runs in one.items()} for way, one in found.items()
    }


def timed(way: str, paths: list[Path]) -> dict[str, float]:
    """Read all files once; seconds by the clock and of the CPU."""
    import torch

    torch.zeros(1)
    started, used = time.perf_counter(), time.process_time()
    tensors = list(WAYS[way](paths))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    assert sum(tensor.nbytes for tensor in tensors) > 0.9 * sum(map(_size, paths))
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}


def files(gigabytes: int) -> list[Path]:
    """Random weights in files of a gibibyte; written once."""
    paths = [FOLDER / f"{index}.safetensors" for index in range(gigabytes)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not path.exists():
            _write(path)
    return paths


def _write(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    size = 2 * _SHAPE[0] * _SHAPE[1]
    tensors = {
        f"{path.stem}.{index}": torch.randint(0, 2**15, _SHAPE, dtype=torch.int16).view(
            torch.bfloat16
        )
        for index in range(_FILE_BYTES // size)
    }
    save_file(tensors, path)


def _tensors(paths: Iterable[Path]) -> Iterator[tuple[Path, int, int]]:
    """Where each tensor begins and ends (https://github.com/huggingface/safetensors)."""
    for path in paths:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            yield path, 8 + length + begin, 8 + length + end


def _in_child(way: str, gigabytes: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.weights", "--way", way, "--gigabytes", str(gigabytes)]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(run[name] for run in runs), 2) for name in runs[0]}


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _size(path: Path) -> int:
    return path.stat().st_size


if __name__ == "__main__":
    main()
