"""``python -m deploy`` as a process: KUBECONFIG from the environment, TLS and Ctrl-C."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.deploy import shapes
from tests.deploy.conftest import ROOT, Deployment


def command(deployment: Deployment, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy", *arguments],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(deployment.kubeconfig), "UP": "nothing of ours"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server-side TLS context with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    ).sign(key, hashes.SHA256())
    file = folder / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_a_kubeconfig_without_verification_causes_no_warnings(
    deployment: Deployment,
) -> None:
    deployment.api.stop()
    deployment.api.start(deployment.folder, self_signed(deployment.folder))

    out, err = command(deployment, "doctor").communicate(timeout=60)

    assert "the cluster knows all" in out
    assert err == ""


def test_up_needs_only_the_environment(deployment: Deployment) -> None:
    output = deployment.folder / "out.png"

    process = command(
        deployment, "up", "--address", deployment.predictor.address, "--output", str(output)
    )
    out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    assert output.read_bytes().startswith(b"\x89PNG")
    assert f"inferenceservice/{shapes.SERVICE} is ready" in out


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Enable Ctrl-C: shells start background jobs with SIGINT ignored, and children inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_everything_and_says_so(deployment: Deployment) -> None:
    del deployment.api.controllers["InferenceService"]
    process = command(deployment, "up")
    deadline = time.monotonic() + 30
    while not deployment.api.find("InferenceService", shapes.SERVICE):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.stdout
    while "has not processed the InferenceService" not in process.stdout.readline():
        assert time.monotonic() < deadline

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Everything stays as it is on the cluster" in err
    assert "Traceback" not in err
    assert deployment.api.find("InferenceService", shapes.SERVICE)
    assert deployment.api.requested("DELETE") == []
