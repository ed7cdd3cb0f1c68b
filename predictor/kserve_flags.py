"""KServe's own flags: those that work here, and a sentence for each of the others.

KServe 0.21 accepts more flags than this server can honor, and ignores some of them itself:
https://github.com/kserve/kserve/blob/v0.21.0/python/kserve/kserve/model_server.py
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_TRUE = ("true", "yes", "on", "1", "y", "t")
_FALSE = ("false", "no", "off", "0", "n", "f")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Refusal(NamedTuple):
    """Why a flag is refused, and the values, in lower case, that change nothing."""

    reason: str
    harmless: tuple[str, ...] = ()


_LOGS = "the server configures its own logs"
_TRANSFORMER = "is for transformers, and this server is a predictor"
_REFUSED = {
    "max_threads": _Refusal("RPCs run on the event loop, not on threads"),
    "grpc_max_send_message_length": _Refusal("the server does not bound its responses"),
    "grpc_max_receive_message_length": _Refusal("`max_body_bytes` bounds messages too"),
    "workers": _Refusal(
        "the engine batches in one process; scale with replicas instead", harmless=("1",)
    ),
    "max_asyncio_workers": _Refusal("KServe ignores it"),
    "event_loop": _Refusal("the server always runs on asyncio's loop", ("auto", "asyncio")),
    "configure_logging": _Refusal(_LOGS, _TRUE),
    "log_config_file": _Refusal(_LOGS),
    "access_log_format": _Refusal(_LOGS),
    "predictor_host": _Refusal(_TRANSFORMER),
    "protocol": _Refusal(_TRANSFORMER, ("v1",)),
    "predictor_protocol": _Refusal(_TRANSFORMER, ("v1",)),
    "predictor_use_ssl": _Refusal(_TRANSFORMER, _FALSE),
    "predictor_request_timeout_seconds": _Refusal(_TRANSFORMER),
    "predictor_request_retries": _Refusal(_TRANSFORMER),
    "enable_predictor_health_check": _Refusal(_TRANSFORMER),
}

# They are easily taken for settings.
_FLAGS_ONLY = ("enable_grpc", "grpc_port")
_TLS = {"ssl_certfile": "KSERVE_TLS_CERT_FILE", "ssl_keyfile": "KSERVE_TLS_KEY_FILE"}
_TLS_HELP = {
    "ssl_certfile": "The certificate for HTTPS; or KSERVE_TLS_CERT_FILE.",
    "ssl_keyfile": "Its private key; or KSERVE_TLS_KEY_FILE.",
}


def add_kserve_flags(parser: argparse.ArgumentParser) -> None:
    """Add KServe's flags; ``--help`` lists only those that work."""
    add = parser.add_argument
    add(
        *spellings("http_port"),
        type=_port,
        default=8080,
        help="The port to listen on; with TLS, 8443 in place of 8080. 0 picks a free one.",
    )
    add(
        *spellings("model_name"),
        type=_model_name,
        default="stable-diffusion",
        help="The name of the model in the routes, if model_dir is a single model's folder.",
    )
    add(
        *spellings("timeout_keep_alive"),
        type=_seconds,
        default=65,
        help="How many seconds an idle connection stays open; more than in the proxy before it.",
    )
    add(
        *spellings("enable_grpc"),
        type=_boolean,
        default=False,
        help="Serve the Open Inference Protocol over gRPC too (docs/clients.md).",
    )
    add(
        *spellings("grpc_port"),
        type=_port,
        default=8081,
        help="The port of gRPC, on the same host; 0 picks a free one.",
    )
    # KServe reads this one from the command line itself, in this spelling.
    add("--enable_docs_url", type=_boolean, default=False, help="Serve Swagger UI under /docs.")
    add(
        *spellings("enable_latency_logging"),
        type=_boolean,
        default=True,
        help="Log the durations of each request.",
    )
    for name, variable in _TLS.items():
        add(*spellings(name), default=os.environ.get(variable) or None, help=_TLS_HELP[name])
    for name in _REFUSED:
        add(*spellings(name), action=_RefusedAction, dest=name)


def spellings(name: str) -> Sequence[str]:
    """A flag with underscores and with dashes."""
    return tuple(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def contradiction(flags: argparse.Namespace, environment: Mapping[str, str]) -> str | None:
    """What is wrong with the flags together, or with variables that would set a refused flag."""
    for name, refusal in _REFUSED.items():
        variable = f"PREDICTOR_{name.upper()}"
        if environment.get(variable, "").lower() not in ("", *refusal.harmless):
            return f"{variable}: {refusal.reason}"
    for name in _FLAGS_ONLY:
        if environment.get(f"PREDICTOR_{name.upper()}"):
            return f"PREDICTOR_{name.upper()}: set the flag --{name} instead"
    files = {f"--{name}": getattr(flags, name) for name in _TLS}
    if len({path is None for path in files.values()}) > 1:
        return f"{' and '.join(files)} require each other"
    for flag, path in files.items():
        if path is not None and not Path(path).is_file():
            return f"{flag}: {path} is not a file"
    return None


class _RefusedAction(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        refusal = _REFUSED[self.dest]
        if str(values).lower() not in refusal.harmless:
            parser.error(f"{option_string}: {refusal.reason}")


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError("must be true or false")
    return text.lower() in _TRUE


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be an integer from 0 to 65535")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be a positive integer")
    return int(text)


def _model_name(text: str) -> str:
    if not _MODEL_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("may contain only letters, digits and .-_")
    return text
