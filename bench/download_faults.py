"""Kill downloads again and again while the hub lies, and check what is on the volume.

``python bench/download_faults.py --kills 50 --processes 3`` prints the figures and writes them to
``bench/results/download_faults.json``; it exits with 1 if anything was wrong. Several processes
download one name to one volume from a hub with random faults (``tests/downloader/lying_hub.py``).
SIGKILL ends one or all of them at random moments and at the moments between two renames, and they
start again. A watcher compares the published folder with the truth all the time. Each volume must
end with exactly one good revision and without leftovers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from tests.downloader.hub_server import Hub, running_hub  # noqa: E402
from tests.downloader.lying_hub import Lies, differences, true_files  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "download_faults.json"
REPOSITORY = "owner/stable-diffusion"
KILLS_PER_VOLUME = 10
KILLS_AFTER_PUBLICATION = 2
RESTARTS = 40
FORBIDDEN = ("Traceback", "Signature", "internal error", "hf_good")
# Codes with which a run may end because of a lie; the next one continues.
ALLOWED = {0, 4, 6, 7}
ANY_MOMENT = "any moment"
LEASE_LOST = "another process took over the lease"

Moment = Callable[[Path], bool]


def _has(pattern: str) -> Moment:
    def has(target: Path) -> bool:
        try:
            return any(target.glob(pattern))
        except FileNotFoundError:  # a folder has just been renamed or deleted
            return False

    return has


# When to kill, in the order of a download.
MOMENTS: Mapping[str, Moment] = {
    ANY_MOMENT: lambda _: True,
    "the lease is held": _has(".staging/.sd.lease/*"),
    "the first bytes are written": _has(".staging/sd/*/**/*.partial"),
    "the first weights are complete": _has(".staging/sd/*/**/*.safetensors"),
    "the marker is being written": _has(".staging/sd/*/.modelstore.json*"),
    "the revision has its name": _has(".revisions/sd/*"),
    "the model is published": _has("sd"),
}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-download-faults-") as folder:
        result = storm(Path(folder), options.kills, options.processes, options.seed)
    result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", **result}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 1 if result["violations"] else 0


def storm(folder: Path, kills: int, processes: int, seed: int) -> dict[str, object]:
    """Fill volumes below ``folder``, one after another, until ``kills`` processes were killed."""
    tally = Tally()
    started = time.monotonic()
    volumes = 0
    while tally.kills.total() < kills:
        volumes += 1
        target = folder / f"volume-{volumes}"
        target.mkdir()
        truth = true_files(seed + volumes, elements=1_000_000)
        with running_hub() as hub:
            hub.repository(REPOSITORY).commit(truth)
            hub.faults = Lies(seed=seed + volumes, share=0.3, limit=4, address_uses=1)
            hub.faults.pace = (32 * 1024, 0.01)
            budget = min(KILLS_PER_VOLUME, kills - tally.kills.total())
            volume = Volume(target, truth, hub, tally, random.Random(seed + volumes))
            volume.run(processes, budget)
            tally.lies += hub.faults.given
    return {
        "kills": tally.kills.total(),
        "processes_at_once": processes,
        "volumes": volumes,
        "good_volumes": tally.good_volumes,
        "runs": tally.runs,
        "exit_codes": dict(sorted(tally.codes.items())),
        "leases_lost": tally.leases_lost,
        "kills_by_moment": dict(tally.kills),
        "lies": dict(sorted(tally.lies.items())),
        "looks_at_the_published_folder": tally.looks,
        "largest_leftover_to_model": round(tally.largest_leftover, 2),
        "most_temporary_entries": tally.most_entries,
        "seconds": round(time.monotonic() - started),
        "violations": tally.violations,
    }


@dataclass
class Tally:
    """What happened on all volumes."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    lies: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    leases_lost: int = 0
    good_volumes: int = 0
    looks: int = 0
    largest_leftover: float = 0.0
    most_entries: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass
class Volume:
    """One volume, from empty to one good revision."""

    target: Path
    truth: Mapping[str, bytes]
    hub: Hub
    tally: Tally
    draw: random.Random
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, processes: int, kills: int) -> None:
        """Kill up to ``kills`` of the processes, let the others end, and check the volume."""
        watcher = threading.Thread(target=self._watch)
        watcher.start()
        try:
            self._kill_all(processes, kills)
            for process in self.running:
                self._end(process)
            self._finish()
        finally:
            for process in self.running:
                process.kill()
            self.ended.set()
            watcher.join()

    def _kill_all(self, processes: int, kills: int) -> None:
        last = KILLS_AFTER_PUBLICATION
        while kills > 0 and last > 0:
            self._restart(processes)
            last -= self._is_published
            name = self._moment()
            while not (MOMENTS[name](self.target) or self._is_published):
                time.sleep(0.001)
                self._restart(processes)
            time.sleep(self.draw.uniform(0, 3.0) if name == ANY_MOMENT else 0)
            # A node that fails takes all of its pods with it.
            everyone = [one for one in self.running if one.poll() is None]
            victims = everyone if self.draw.random() < 0.4 else everyone[:1]
            for victim in victims[:kills]:
                victim.kill()
                kills -= 1
                self.tally.kills[name] += 1
            self.draw.shuffle(self.running)

    @property
    def _is_published(self) -> bool:
        return (self.target / "sd").exists()

    def _moment(self) -> str:
        """A random moment that is still to come; the nearest ones are the most likely."""
        if self._is_published:
            return ANY_MOMENT
        ahead = [name for name, has_come in MOMENTS.items() if not has_come(self.target)]
        return self.draw.choice([ANY_MOMENT, *ahead[:2], *ahead])

    def _restart(self, processes: int) -> None:
        for process in [one for one in self.running if one.poll() is not None]:
            self.running.remove(process)
            self._end(process)
        while len(self.running) < processes:
            self.running.append(self._start())

    def _start(self) -> subprocess.Popen[str]:
        self.tally.runs += 1
        home = self.target.parent
        return subprocess.Popen(
            [sys.executable, "-m", "downloader"],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "HF_HOME": str(home / "hf"),
                "HF_ENDPOINT": self.hub.url,
                "HF_TOKEN": self.hub.token,
                "DOWNLOADER_SOURCE": f"hf://{REPOSITORY}",
                "DOWNLOADER_NAME": "sd",
                "DOWNLOADER_TARGET": str(self.target),
                "DOWNLOADER_LEASE_SECONDS": "3",
                "DOWNLOADER_STALL_SECONDS": "1",
                "DOWNLOADER_MAX_RETRIES": "5",
                "DOWNLOADER_TERMINATION_LOG": str(home / "none"),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _end(self, process: subprocess.Popen[str]) -> int:
        """Wait for the end; check the exit code and the log."""
        _, log = process.communicate(timeout=300)
        code = process.returncode
        self.tally.codes[code] += 1
        last = (log.splitlines() or [""])[-1]
        if code == 1 and LEASE_LOST in last:
            self.tally.leases_lost += 1
        elif code >= 0 and code not in ALLOWED:
            self.tally.violations.append(f"exit code {code}: {last}")
        found = [word for word in FORBIDDEN if word in log]
        if found or (code > 0 and not last.startswith("error: ")):
            self.tally.violations.append(f"log with {found}: {log[-2000:]}")
        return code

    def _finish(self) -> None:
        """Restart a failed run as a Job does, and check what is left."""
        code = next((0 for _ in range(RESTARTS) if self._end(self._start()) == 0), 1)
        staged, trashed = self.target / ".staging", self.target / ".trash"
        left = [path.name for folder in (staged, trashed) for path in folder.glob("*")]
        revisions = [path.name for path in self.target.glob(".revisions/sd/[!.]*")]
        wrong = [*left, *differences(self.target / "sd", self.truth)]
        if code or wrong or len(revisions) != 1:
            self.tally.violations.append(f"{self.target.name}: {code} {wrong} {revisions}")
        else:
            self.tally.good_volumes += 1

    def _watch(self) -> None:
        """Look at the published folder as a predictor does, and at the temporary files."""
        size = sum(map(len, self.truth.values()))
        while not self.ended.wait(0.02):
            if self._is_published:
                self.tally.looks += 1
                wrong = differences((self.target / "sd").resolve(), self.truth)
                if wrong:
                    self.tally.violations.append(f"half-written: {wrong}")
            entries, leftover = _temporary(self.target)
            self.tally.most_entries = max(self.tally.most_entries, entries)
            self.tally.largest_leftover = max(self.tally.largest_leftover, leftover / size)


def _temporary(target: Path) -> tuple[int, int]:
    """How many entries the staging and trash folders have, and the bytes of their files."""
    folders = (target / ".staging", target / ".staging" / "sd", target / ".trash")
    entries = sum(len(_entries(folder)) for folder in folders)
    # Unlike ``Path.rglob``, ``os.walk`` ignores a folder that has just been renamed or deleted.
    walks = (os.walk(target / name) for name in (".staging", ".trash"))
    files = (Path(folder, name) for walk in walks for folder, _, names in walk for name in names)
    return entries, sum(map(_size, files))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
