"""KServe's flags: each one works, or ends the process with status 2 and one sentence."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import pytest
from kserve.model_server import parser as kserve_parser
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from predictor.__main__ import parse_arguments
from tests.serving import MODEL_NAME, PREDICT, ROOT, Server

WORKING = {
    *("http_port", "model_name", "timeout_keep_alive", "enable_docs_url"),
    *("enable_latency_logging", "ssl_certfile", "ssl_keyfile", "enable_grpc", "grpc_port"),
}
# A value of each other flag that KServe accepts and that would change something.
REFUSED = {
    "max_threads": "4",
    "grpc_max_send_message_length": "1",
    "grpc_max_receive_message_length": "1",
    "workers": "2",
    "max_asyncio_workers": "2",
    "event_loop": "uvloop",
    "configure_logging": "false",
    "log_config_file": "log.yaml",
    "access_log_format": "%(m)s",
    "predictor_host": "other",
    "protocol": "v2",
    "predictor_protocol": "grpc-v2",
    "predictor_use_ssl": "true",
    "predictor_request_timeout_seconds": "600",
    "predictor_request_retries": "1",
    "enable_predictor_health_check": "",
}
SPELLINGS = [
    (name, f"--{name.replace('_', dash)}{'=' + value if value else ''}")
    for name, value in REFUSED.items()
    for dash in "_-"
]


def help_text() -> str:
    command = [sys.executable, "-m", "predictor", "--help"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_flag_of_kserve_is_decided() -> None:
    options = re.findall(r"--([a-z_-]+)", kserve_parser.format_usage())

    assert {name.replace("-", "_") for name in options} == WORKING | REFUSED.keys()


@pytest.mark.parametrize(("name", "argument"), SPELLINGS, ids=[one for _, one in SPELLINGS])
def test_a_flag_without_effect_is_refused(
    name: str, argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal([argument], capsys)

    flag, _, reason = error.partition("error: ")[2].partition(": ")
    assert flag.lstrip("-").replace("-", "_") == name
    assert len(reason.split()) > 2


@pytest.mark.parametrize(
    ("arguments", "is_on", "port"),
    [
        ([], False, 8081),
        (["--enable_grpc", "True"], True, 8081),
        (["--enable-grpc=1", "--grpc-port=9000"], True, 9000),
        (["--enable_grpc=false"], False, 8081),
    ],
)
def test_grpc_is_off_unless_a_flag_enables_it(arguments: list[str], is_on: bool, port: int) -> None:
    _, flags = parse_arguments(arguments)

    assert (flags.enable_grpc, flags.grpc_port) == (is_on, port)


@pytest.mark.parametrize("name", ["enable_grpc", "grpc_port"])
def test_a_variable_in_place_of_a_flag_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"PREDICTOR_{name.upper()}", "1")

    assert f"PREDICTOR_{name.upper()}: set the flag --{name} instead" in refusal([], capsys)


def test_a_refused_flag_ends_a_real_process_with_status_2(tmp_path: Path) -> None:
    with Server.started(tmp_path, tmp_path / "log", workers=2) as server:
        assert server.process.wait(timeout=60) == 2

    (line,) = [line for line in server.log.read_text().splitlines() if "error" in line]
    assert line.endswith(
        "--workers: the engine batches in one process; scale with replicas instead"
    )


@pytest.mark.parametrize(
    "argument",
    ["--workers=1", "--event-loop=auto", "--protocol=v1", "--predictor-use-ssl=false"],
)
def test_a_value_that_changes_nothing_is_accepted(argument: str) -> None:
    parse_arguments([argument])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--http_port=-1"], "from 0 to 65535"),
        (["--http-port=65536"], "from 0 to 65535"),
        (["--http_port=many"], "from 0 to 65535"),
        (["--model_name=a/b"], "letters, digits"),
        (["--model_name="], "letters, digits"),
        (["--timeout-keep-alive=0"], "positive"),
        (["--enable_docs_url=maybe"], "true or false"),
        (["--enable_grpc=maybe"], "true or false"),
        (["--enable_grpc"], "expected one argument"),
        (["--grpc_port=70000"], "from 0 to 65535"),
        (["--ssl_certfile=x"], "--ssl_certfile and --ssl_keyfile require each other"),
        (["--ssl_certfile=/no/x", "--ssl_keyfile=/no/y"], "/no/x is not a file"),
        (["--enable_latency"], "unrecognized arguments"),
    ],
)
def test_a_wrong_value_is_explained(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(arguments, capsys)


def test_help_lists_only_what_works() -> None:
    text = help_text()

    assert all(f"--{name} " in text for name in WORKING)
    assert [name for name in REFUSED if f"--{name}" in text] == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key next to it."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    return tmp_path / "cert.pem"


def test_the_flags_that_work(demo_model: Path, tmp_path: Path, certificate: Path) -> None:
    flags = {
        "ssl_certfile": certificate,
        "ssl_keyfile": certificate.with_name("key.pem"),
        "enable_docs_url": "true",
        "enable_latency_logging": "false",
        "timeout_keep_alive": 1,
        "enable_grpc": "true",
    }
    with Server.started(demo_model, tmp_path / "log", **flags) as server:
        server.wait_for_log("is ready after", seconds=120)
        url = server.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=url, verify=context, timeout=60) as client:
            picture = client.post(PREDICT, json={"prompt": "a red star"})
            docs = client.get("/docs")
            names = client.get("/v1/models").json()
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", trusted) as channel:
            live = GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest()).live
        log = server.log.read_text()

    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert "swagger" in docs.text
    assert names["models"] == [MODEL_NAME]
    assert live
    assert "predict_ms" not in log


def test_port_0_picks_a_free_port(demo_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "predictor", "--http_port=0", "--host=127.0.0.1"]
    with (tmp_path / "log").open("wb") as stream:
        process = subprocess.Popen(
            [*command, f"--model_dir={demo_model}"], cwd=ROOT, stdout=stream, stderr=stream
        )
    server = Server(process, "", tmp_path / "log")
    try:
        found = server.wait_for_log(r"running on (http://127\.0\.0\.1:\d+)")
        assert httpx.get(found[1]).json() == {"status": "alive"}
    finally:
        process.kill()
        process.wait()
