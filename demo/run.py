"""The demo, end to end: publish the demo weights, serve them, request a picture, save it.

``python demo/run.py`` saves one picture and exits; ``python demo/run.py --serve`` keeps serving.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo" / "model"
OUTPUT = ROOT / "demo" / "output"
VOLUME = OUTPUT / "volume"
NAME = "stable-diffusion"
STARTUP_SECONDS = 180


def main() -> int:
    """Run the demo; the exit status is not 0 if any part of it fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red circle on a blue background")
    parser.add_argument("--seed", type=int, default=424242)
    parser.add_argument("--serve", action="store_true", help="serve on --port until interrupted")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    publish(NAME, VOLUME)
    if options.serve:
        return _serve_in_foreground(options.port, options.prompt)
    picture = OUTPUT / "picture.png"
    with server(free_port()) as url:
        started = time.perf_counter()
        picture.write_bytes(ask(url, options.prompt, options.seed))
        print(f"answered after {time.perf_counter() - started:.2f} s")
    print(f"{options.prompt!r} is in {picture.relative_to(ROOT)}")
    return 0


def publish(name: str, volume: Path) -> Path:
    """Publish the committed weights with the downloader in a folder that stands in for the PVC."""
    volume.mkdir(parents=True, exist_ok=True)
    flags = [f"--source={MODEL.as_uri()}", f"--name={name}", f"--target={volume}"]
    subprocess.run([sys.executable, "-m", "downloader", *flags], cwd=ROOT, check=True)
    return volume / name


def predictor_command(port: int, *flags: str) -> list[str]:
    """The command that serves the published weights on 127.0.0.1, with more ``flags``."""
    return [
        *(sys.executable, "-m", "predictor", f"--model_name={NAME}", f"--http_port={port}"),
        *("--host=127.0.0.1", f"--model_dir={VOLUME / NAME}"),
        *flags,
    ]


def jobs_command(port: int, predictor_port: int) -> list[str]:
    """The command that serves jobs on 127.0.0.1, with a file in place of a Redis."""
    return [
        *(sys.executable, "-m", "jobs", f"--port={port}", f"--models={NAME}"),
        f"--predictor_url=http://127.0.0.1:{predictor_port}",
        f"--sqlite_path={OUTPUT / 'jobs.sqlite3'}",
    ]


@contextlib.contextmanager
def server(port: int, *flags: str) -> Iterator[str]:
    """Start a predictor, yield its base URL once it is ready, and stop it on exit."""
    log = OUTPUT / "predictor.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            predictor_command(port, *flags), cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def ask(url: str, prompt: str, seed: int) -> bytes:
    """Request one picture over KServe's v1 protocol; returns a PNG."""
    body = json.dumps({"prompt": prompt, "parameters": {"seed": seed}}).encode()
    with urllib.request.urlopen(f"{url}/v1/models/{NAME}:predict", data=body) as response:
        return bytes(response.read())


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _serve_in_foreground(port: int, prompt: str) -> int:
    page = f"http://127.0.0.1:{port}/ui#prompt={quote(prompt)}"
    print(f"serving http://127.0.0.1:{port}/v1/models/{NAME}:predict, Ctrl-C stops it")
    print(f"serving http://127.0.0.1:{port + 1}/v1/jobs, the same as jobs (docs/jobs.md)")
    print(f"draw in a browser at {page}", flush=True)
    return run_together([predictor_command(port), jobs_command(port + 1, port)])


def run_together(commands: Sequence[Sequence[str]]) -> int:
    """Run the commands until the first one ends; returns its status. Signals reach all of them."""
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]

    def stop(*_: object) -> None:
        for process in processes:
            process.terminate()

    # A terminal sends Ctrl-C to the commands too, and each stops in its own time.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, stop)
    status = processes[0].wait()
    stop()
    for process in processes:
        process.wait()
    return status


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    started = time.perf_counter()
    while time.perf_counter() - started < STARTUP_SECONDS:
        if process.poll() is not None:
            sys.exit(f"the predictor exited with status {process.returncode}; see {log}")
        try:
            urllib.request.urlopen(f"{url}/v2/models/{NAME}/ready").close()
        except OSError:
            time.sleep(0.2)
        else:
            print(f"ready after {time.perf_counter() - started:.1f} s")
            return
    sys.exit(f"the predictor was not ready within {STARTUP_SECONDS} s; see {log}")


if __name__ == "__main__":
    sys.exit(main())
