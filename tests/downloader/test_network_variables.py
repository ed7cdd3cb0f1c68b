"""The variables for certificates, proxies and endpoints, and the message for each mistake."""

from __future__ import annotations

import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from downloader.errors import InvalidSettingError, NotFoundError
from downloader.settings import Fetch
from downloader.sources import open_source
from downloader.sources.access import Access
from downloader.spec import BucketSpec, parse_spec
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files
from tests.downloader.socks_server import running_socks_proxy
from tests.downloader.volume import write_files

SOURCES = {
    "hub": {},
    "bucket": {
        "DOWNLOADER_SOURCE": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    },
    "file": {
        "DOWNLOADER_SOURCE": "http://127.0.0.1:9/x.safetensors",
        "DOWNLOADER_SHA256": "0" * 64,
    },
}


class _NoObjects(BaseHTTPRequestHandler):
    """A bucket's listing without objects."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""

    def do_GET(self) -> None:
        body = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_socks_proxy_carries_every_request(hub: Hub, job: Job) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    endpoint = f"http://hub.invalid:{urlsplit(hub.url).port}"

    with running_socks_proxy() as proxy:
        result = job.run(HF_ENDPOINT=endpoint, ALL_PROXY=proxy.url)

    assert result.returncode == 0, result.stderr
    # The proxy resolves the hub's name; the network that delivers large files has another address.
    assert set(proxy.hosts) == {"hub.invalid", "127.0.0.1"}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("not a certificate", "has no valid PEM certificates"),
    ],
    ids=["missing", "broken"],
)
def test_certificates_that_cannot_be_read_are_named(
    job: Job, tmp_path: Path, source: str, content: str | None, reason: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    result = job.run(SSL_CERT_FILE=str(path), **SOURCES[source])

    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: SSL_CERT_FILE: {path}")
    assert reason in line


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_for_a_bucket_that_cannot_be_read_are_named(job: Job, variable: str) -> None:
    result = job.run(**{variable: "/none.pem"}, **SOURCES["bucket"])

    assert result.returncode == 2
    assert result.stderr == f"error: {variable}: /none.pem: No such file or directory\n"


def test_a_bucket_uses_the_certificates_of_ssl_cert_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    both = tmp_path / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(private + path.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    settings = Fetch(source="s3://bucket/prefix", name="sd", max_retries=0)

    with HTTPServer(("127.0.0.1", 0), _NoObjects) as server, Access(settings) as access:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        source = open_source(BucketSpec("bucket", "prefix"), access)
        with pytest.raises(NotFoundError, match="the prefix has no objects"):
            source.resolve()
        thread.join()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("HTTP_PROXY", "socks4://user:secret@h:1", "a proxy with the scheme 'socks4' is not"),
        ("https_proxy", "http://user:secret@h:port", "the proxy's URL is not valid"),
        ("HTTPS_PROXY", "http://user:secret@h:99999", "no valid host and port"),
        ("ALL_PROXY", "http://", "no valid host and port"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    job: Job, source: str, variable: str, value: str, reason: str
) -> None:
    result = job.run(**{variable: value}, **SOURCES[source])

    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {variable}: ")
    assert reason in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("source", "variable"),
    [
        ("hub", "HF_ENDPOINT"),
        ("bucket", "AWS_ENDPOINT_URL"),
        ("bucket", "AWS_ENDPOINT_URL_S3"),
    ],
)
@pytest.mark.parametrize(
    "value",
    ["mirror.secret", "https://", "ftp://secret", "http://secret:x", "https://secret:99999"],
)
def test_an_endpoint_that_is_not_a_url_is_named(
    source: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, own in (SOURCES[source] | {variable: value}).items():
        monkeypatch.setenv(name, own)
    settings = Fetch(name="sd", source=SOURCES[source].get("DOWNLOADER_SOURCE", "hf://owner/name"))

    with (
        Access(settings) as access,
        pytest.raises(InvalidSettingError, match=f"^{variable}: the URL is not valid") as error,
    ):
        open_source(parse_spec(settings.source), access)

    assert "secret" not in str(error.value)


def test_a_mistake_in_an_endpoint_ends_the_run(job: Job) -> None:
    result = job.run(HF_ENDPOINT="http://hub:port")

    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: HF_ENDPOINT: the URL is not valid")


@pytest.mark.parametrize("variable", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
@pytest.mark.parametrize("value", ["ten", "-1"])
def test_a_timeout_that_is_not_a_number_is_named(job: Job, variable: str, value: str) -> None:
    result = job.run(**{variable: value})

    assert result.returncode == 2, result.stderr
    sentence = f"error: {variable}: {value!r} is not a whole number of seconds above 0\n"
    assert result.stderr == sentence


@pytest.mark.parametrize("source", ["hub", "file"])
@pytest.mark.parametrize(
    ("bypass", "clause"),
    [("", " through the proxy that ALL_PROXY sets"), ("127.0.0.1", "")],
)
def test_an_error_of_the_network_names_the_proxy(
    job: Job, source: str, bypass: str, clause: str
) -> None:
    endpoint = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    proxy = {"ALL_PROXY": "http://user:secret@127.0.0.1:7", "no_proxy": bypass}

    result = job.run(DOWNLOADER_MAX_RETRIES="0", **endpoint, **proxy, **SOURCES[source])

    assert f"127.0.0.1 cannot be reached{clause} (ConnectError: " in result.stderr
    assert "secret" not in result.stderr


def test_a_missing_file_of_credentials_is_named(job: Job) -> None:
    """EKS sets both variables in a pod whose service account has a role."""
    role = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/none"}

    result = job.run(**role, **SOURCES["bucket"])

    assert result.returncode == 2, result.stderr
    reason = "AWS_WEB_IDENTITY_TOKEN_FILE: /none: No such file or directory"
    assert result.stderr == f"error: s3://bucket/prefix: {reason}\n"


def test_a_bucket_does_not_support_a_socks_proxy(job: Job) -> None:
    result = job.run(HTTPS_PROXY="socks5://127.0.0.1:9", **SOURCES["bucket"])

    assert result.returncode == 2
    assert result.stderr.startswith("error: HTTPS_PROXY: a proxy with the scheme 'socks5' is not ")


def test_a_folder_needs_no_network(job: Job, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", pipeline_files())
    variables = {"SSL_CERT_FILE": "/none.pem", "ALL_PROXY": "socks4://h:1"}

    result = job.run(DOWNLOADER_SOURCE=source.as_uri(), **variables)

    assert result.returncode == 0, result.stderr
