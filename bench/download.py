"""Measure the downloader's overhead: a fetch against curl and sha256sum, in turns, in one run.

``python bench/download.py`` prints the figures and writes them to ``bench/results/download.json``.
A separate process serves 2 GB of safetensors in 6 files on the loopback, as a hub does. The rival
is one parallel curl per file, each followed by sha256sum. Both start from an empty folder. A fetch
also flushes every file to disk, which the rival leaves to the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from bench.hub_files import COMMIT, write_repository  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "download.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=2000, help="of all six files together")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-download-") as folder:
        result = _measure(Path(folder), options.rounds, options.megabytes * 1_000_000)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    _print(result)


def _measure(folder: Path, rounds: int, size: int) -> dict[str, object]:
    weights = write_repository(folder / "hub", size)
    fetches: list[dict[str, float]] = []
    rivals, verifies, sums = [], [], []
    with _server(folder / "hub") as url:
        for _ in range(rounds):
            fetches.append(_fetch(url, folder / "volume"))
            verifies.append(_timed(_downloader("verify", "--target", str(folder / "volume"))))
            files = [str(folder / "volume" / "sd" / path) for path in weights]
            sums.append(_timed(_parallel_shell([f"sha256sum {path}" for path in files])))
            shutil.rmtree(folder / "volume")
            rivals.append(_rival(url, weights, folder / "rival"))
            shutil.rmtree(folder / "rival")
            os.sync()
    medians = {key: statistics.median(one[key] for one in fetches) for key in fetches[0]}
    curl, verify, sha256sum = map(statistics.median, (rivals, verifies, sums))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
        "bytes": sum(weights.values()),
        "files": len(weights),
        "fetch_seconds": round(medians["seconds"], 3),
        "curl_and_sha256sum_seconds": round(curl, 3),
        "fetch_to_curl": round(medians["seconds"] / curl, 3),
        "peak_rss_megabytes": round(max(one["peak_bytes"] for one in fetches) / 1e6),
        "first_predictor_ready_byte_seconds": round(medians["ready_seconds"], 3),
        "verify_seconds": round(verify, 3),
        "verify_bytes_per_second": round(sum(weights.values()) / verify),
        "sha256sum_seconds": round(sha256sum, 3),
        "verify_to_sha256sum": round(verify / sha256sum, 3),
    }


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    command = [sys.executable, str(ROOT / "bench" / "hub_files.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.terminate()


def _downloader(verb: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "downloader", verb, "--name", "sd", *flags]


def _fetch(url: str, volume: Path) -> dict[str, float]:
    """Total seconds, seconds until a predictor could open the model, and peak RSS in bytes."""
    volume.mkdir()
    # The process reads its own peak RSS: wait4 includes the parent's memory before the exec.
    script = (
        "import sys; from downloader.__main__ import main; code = main();"
        "print([line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0]);"
        "sys.stdout.flush(); import os; os._exit(code)"
    )
    flags = ["--name", "sd", "--source", f"hf://bench/model@{COMMIT}", "--target", str(volume)]
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", script, *flags],
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        while process.poll() is None and not (volume / "sd" / "model_index.json").exists():
            time.sleep(0.005)
        ready = time.perf_counter() - started
        assert process.stdout is not None
        kilobytes = int(process.stdout.read().splitlines()[-1])
        process.wait()
    seconds = time.perf_counter() - started
    assert process.returncode == 0
    return {"seconds": seconds, "ready_seconds": ready, "peak_bytes": kilobytes * 1024}


def _rival(url: str, weights: dict[str, int], folder: Path) -> float:
    folder.mkdir()
    fetches = [
        f"curl --silent --fail --location -o {folder}/{number} "
        f"{url}/bench/model/resolve/{COMMIT}/{path} && sha256sum {folder}/{number}"
        for number, path in enumerate(weights)
    ]
    return _timed(_parallel_shell(fetches))


def _parallel_shell(commands: list[str]) -> list[str]:
    jobs = " ".join(f'({command}) & pids="$pids $!";' for command in commands)
    return ["sh", "-c", f"{jobs} for pid in $pids; do wait $pid || exit 1; done"]


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _print(result: dict[str, object]) -> None:
    width = max(map(len, result))
    print("\n".join(f"{name:{width}}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
