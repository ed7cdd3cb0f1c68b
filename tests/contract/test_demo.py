"""The demo and its model: small, safe, and accurate."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from demo.judge import look_at
from demo.run import MODEL, OUTPUT, ROOT, main
from demo.shapes import COLOURS, SHAPES, Scene, all_scenes


def test_the_model_is_small_and_contains_only_half_precision_safetensors() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]

    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert len(weights) == 3
    assert {dtype for path in weights for dtype in dtypes(path)} == {"F16"}


def dtypes(path: Path) -> set[str]:
    """The tensor types in a safetensors header: eight bytes of length, then JSON."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}


def test_there_are_enough_scenes() -> None:
    scenes = list(all_scenes())

    assert len(COLOURS) >= 7
    assert len(SHAPES) >= 4
    assert all(
        len({one.background for one in scenes if (one.colour, one.shape) == (colour, shape)}) >= 6
        for colour in COLOURS
        for shape in SHAPES
    )


def test_the_model_follows_nearly_all_prompts_at_its_default_settings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "demo/evaluate.py", f"--sheet={tmp_path / 'sheet.png'}", "--least=0.95"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000


def test_the_demo_draws_its_prompt_and_downloads_only_once() -> None:
    command = [sys.executable, "demo/run.py", "--prompt", "a white star on a red background"]

    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    again = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300
    )

    assert "already published" in again.stdout
    with Image.open(OUTPUT / "picture.png") as picture:
        assert look_at(picture).shows(Scene("white", "star", "red"))


def test_serving_prints_the_page_with_a_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("demo.run.run_together", started.extend)
    monkeypatch.setattr(sys, "argv", ["demo/run.py", "--serve", "--port=8123"])

    main()

    page = "http://127.0.0.1:8123/ui#prompt=a%20red%20circle%20on%20a%20blue%20background"
    assert page in capsys.readouterr().out
    predictor, jobs = started
    assert predictor[3:5] == ["--model_name=stable-diffusion", "--http_port=8123"]
    assert jobs[2:6] == [
        *("jobs", "--port=8124", "--models=stable-diffusion"),
        "--predictor_url=http://127.0.0.1:8123",
    ]
