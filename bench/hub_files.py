"""A hub with one repository for the download benchmark: written to a folder, sent by ``sendfile``.

``python bench/hub_files.py FOLDER`` prints its port and serves until it is terminated.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "b" * 40
_LISTING = "listing.json"
_BLOCK_BYTES = 1_000_000
_SHARES = {
    "unet/diffusion_pytorch_model.safetensors": 0.40,
    "text_encoder/model.safetensors": 0.15,
    "text_encoder_2/model.safetensors": 0.15,
    "image_encoder/model.safetensors": 0.10,
    "safety_checker/model.safetensors": 0.10,
    "vae/diffusion_pytorch_model.safetensors": 0.10,
}


def write_repository(folder: Path, size: int) -> dict[str, int]:
    """Write an index and six files of random weights, ``size`` bytes in total; bytes by path."""
    index = {path.partition("/")[0]: ["diffusers", "AutoencoderKL"] for path in _SHARES}
    small = {"model_index.json": json.dumps({"_class_name": "Bench", **index}).encode()}
    small |= {f"{name}/config.json": b"{}" for name in index}
    for path, content in small.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    listing = [_entry(path, content) for path, content in small.items()]
    weights = {}
    for path, share in _SHARES.items():
        digest, weights[path] = _write_weights(folder / path, int(size * share))
        lfs = {"oid": digest, "size": weights[path], "pointerSize": 134}
        listing.append({"type": "file", "path": path, "size": weights[path], "oid": "", "lfs": lfs})
    (folder / _LISTING).write_text(json.dumps(listing))
    return weights


def _entry(path: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": blob}


def _write_weights(path: Path, size: int) -> tuple[str, int]:
    blocks = max(1, size // _BLOCK_BYTES)
    end = blocks * _BLOCK_BYTES
    tensor = {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}
    header = json.dumps({"weight": tensor}).encode()
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for piece in (len(header).to_bytes(8, "little") + header, *_blocks(blocks)):
            stream.write(piece)
            digest.update(piece)
        return digest.hexdigest(), stream.tell()


def _blocks(count: int) -> list[bytes]:
    block = os.urandom(_BLOCK_BYTES)
    return [block] * count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def do_GET(self) -> None:
        """Send the listing or a file."""
        found = re.fullmatch(r"/[^/]+/[^/]+/resolve/\w+/(.+)", self.path)
        name = found[1] if found else _LISTING
        with (self.folder / name).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.flush()
            offset = 0
            while offset < size:
                offset += os.sendfile(
                    self.connection.fileno(), stream.fileno(), offset, size - offset
                )


if __name__ == "__main__":
    _Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
