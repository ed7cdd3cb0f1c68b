"""The command line: our flags, KServe's flags and environment variables."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from predictor.__main__ import parse_arguments
from predictor.settings import Settings
from tests.serving import Server


def test_our_flags_and_kserves_can_be_combined() -> None:
    settings, flags = parse_arguments(
        ["--max_pixels=65536", "--embed_metadata=false", "--http_port=9001", "--model_name=sd"]
    )

    assert (settings.max_pixels, settings.embed_metadata) == (65536, False)
    assert (flags.http_port, flags.model_name) == (9001, "sd")


def test_our_flags_may_have_dashes() -> None:
    settings, _ = parse_arguments(["--max-pixels=65536", "--embed-metadata", "false"])

    assert (settings.max_pixels, settings.embed_metadata) == (65536, False)


def test_a_flag_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTOR_MAX_SIDE", "512")
    monkeypatch.setenv("PREDICTOR_MAX_PIXELS", "4096")

    settings, _ = parse_arguments(["--max_side=1024"])

    assert (settings.max_side, settings.max_pixels) == (1024, 4096)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_flag_and_a_description(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])

    assert f"--{name} " in capsys.readouterr().out
    assert Settings.model_fields[name].description


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_pixels=many"], ["--max_pixels", "'many'", "integer"]),
        (["--device=tpu"], ["--device", "'tpu'", "'cuda'"]),
        (["--max-side=3"], ["--max_side: '3': must be greater than or equal to 64"]),
        (["--embed-metadata=x"], ["--embed_metadata: 'x': must be a valid boolean"]),
        (["--compile_shapes=big"], ["--compile_shapes: 'big': is not valid. The sizes to compile"]),
        (["--nonsense=1"], ["--nonsense"]),
        (["--workers=2"], ["--workers", "replicas"]),
    ],
)
def test_a_wrong_flag_ends_the_process_with_one_sentence(
    arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)

    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("predictor: error: ")
    assert [word for word in expected if word not in line] == []


def handles_sigterm(server: Server) -> bool:
    """Whether the process has a handler: the kernel drops a signal to process 1 without one."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << signal.SIGTERM - 1)


def test_sigterm_ends_a_process_that_still_imports_its_libraries(tmp_path: Path) -> None:
    with Server.started(tmp_path, tmp_path / "log") as server:
        while not handles_sigterm(server):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(timeout=60) == 128 + signal.SIGTERM
