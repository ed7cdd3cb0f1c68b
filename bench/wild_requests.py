"""Requests as real clients, careless ones and attackers send them; reproducible for a seed.

``wild_requests`` mixes valid requests with broken JSON, wrong types, hostile pictures and raw bytes
on the socket. Most go to ``:predict``, a third to the other wire formats. Every prompt holds
``SECRET``, which must not appear in the server's log.
"""

from __future__ import annotations

import base64
import copy
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from PIL import Image

from bench.wild_formats import WILD_FORMATS, Document, WildFormat

SECRET = "xyzzy-secret"
_PREDICT = "/v1/models/stable-diffusion:predict"


class WildRequest(NamedTuple):
    """One request. ``raw`` bytes go to the socket as they are, in place of the rest.

    ``hangs_up`` closes the connection before the response. ``is_valid`` requests must get 200, or
    429 or 503 from a busy server.
    """

    kind: str
    method: str = "POST"
    path: str = _PREDICT
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    content: bytes = b""
    raw: bytes | None = None
    hangs_up: bool = False
    is_valid: bool = False


def wild_requests(seed: int) -> Iterator[WildRequest]:
    """Endless requests, more than a third of them valid."""
    rng = random.Random(seed)
    kinds = [_valid] * 5 + [
        *(_valid_in_a_format, _valid_in_a_format, _valid_in_a_format, _valid_in_a_format),
        *(_wrong_in_a_format, _wrong_in_a_format, _broken_in_a_format),
        *(_wrong_value, _wrong_value, _unknown_field, _broken_json, _odd_json, _odd_bytes),
        *(_hostile_picture, _hostile_picture, _wrong_route, _odd_headers, _raw_bytes, _gone),
    ]
    while True:
        yield rng.choice(kinds)(rng)


def _body(rng: random.Random) -> dict[str, Any]:
    return {
        "prompt": f"a red circle {SECRET}",
        "parameters": {
            "seed": rng.randrange(2**53),
            "width": 64,
            "height": 64,
            "num_inference_steps": rng.randint(1, 3),
        },
    }


def _as_request(kind: str, document: object, **changes: Any) -> WildRequest:
    return WildRequest(kind, content=json.dumps(document).encode(), **changes)


def _valid(rng: random.Random) -> WildRequest:
    body = _body(rng)
    parameters = body["parameters"]
    headers = {"content-type": "application/json"}
    form = rng.choice(["plain", "format", "stream", "instances", "image", "mask", "scheduler"])
    if form == "format":
        parameters["output_format"] = rng.choice(["png", "jpeg", "webp"])
    if form == "stream":
        headers["accept"] = "text/event-stream"
    if form == "scheduler":
        parameters["scheduler"] = rng.choice(["euler", "ddim", "dpmpp_2m_karras", "heun", "lcm"])
    if form in ("image", "mask"):
        parameters["image"] = _base64(_picture(rng))
        parameters["strength"] = 1.0
    if form == "mask":
        parameters["mask_image"] = _base64(_picture(rng))
    document = {"instances": [body, body]} if form == "instances" else body
    return _as_request(f"valid {form}", document, headers=tuple(headers.items()), is_valid=True)


def _picture(rng: random.Random) -> bytes:
    size = (rng.randint(40, 90), rng.randint(40, 90))
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(file, rng.choice(["PNG", "JPEG", "WEBP"]))
    return file.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


_ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 20.0, 1e9, 1e300, -1e300, 2**53, 2**64, 10**30),
    *("", " ", "a" * 10_000, "\u0000", "\ud800", "\U0001f600" * 50, "20", "nan", "-inf", "../../x"),
    *([], [[]], {}, {"b64": ""}, {"b64": 3}, [None], [1, "a", {}], {"name": "x"}, {"": ""}),
    *("png", "karras", "DPM++ 2M Karras", "default", "64x64", "http://127.0.0.1:1/x", "data:,"),
)
_FIELDS = (
    *("prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "steps"),
    *("guidance_scale", "guidance_rescale", "scheduler", "image", "mask_image", "strength"),
    *("adapters", "controlnet", "denoising_end", "clip_skip", "num_images_per_prompt", "n"),
    *("true_cfg_scale", "prompt_syntax"),
    *("output_format", "previews", "size", "timeout", "parameters", "instances"),
)


def _odd_value(rng: random.Random) -> object:
    # A copy, because a second change may go into it.
    return copy.deepcopy(rng.choice(_ODD_VALUES))


def _wrong_value(rng: random.Random) -> WildRequest:
    body = _body(rng)
    place = body if rng.random() < 0.3 else body["parameters"]
    for _ in range(rng.randint(1, 2)):
        place[rng.choice(_FIELDS)] = _odd_value(rng)
    return _as_request("wrong value", body)


def _valid_in_a_format(rng: random.Random) -> WildRequest:
    wild_format, document = _in_a_format(rng)
    return _encoded("valid", wild_format, wild_format.encode(document), is_valid=True)


def _wrong_in_a_format(rng: random.Random) -> WildRequest:
    wild_format, document = _in_a_format(rng)
    for _ in range(rng.randint(1, 2)):
        place = rng.choice([*_objects(document)])
        place[rng.choice([*place, *place, *_FIELDS])] = _odd_value(rng)
    return _encoded("wrong", wild_format, wild_format.encode(document))


def _broken_in_a_format(rng: random.Random) -> WildRequest:
    wild_format, document = _in_a_format(rng)
    content = wild_format.encode(document)
    cut = rng.randrange(len(content))
    broken = rng.choice(
        [
            content[:cut],
            content[:cut] + b"%ff" + content[cut:],
            content[:cut] + b"[]=&" + content[cut:],
            content + b"&" + content,
        ]
    )
    return _encoded("broken", wild_format, broken)


def _in_a_format(rng: random.Random) -> tuple[WildFormat, Document]:
    """A wire format and a valid request in it."""
    body = _body(rng)
    fields = {"prompt": body["prompt"], **body["parameters"], "image": _picture(rng)}
    wild_format = rng.choice(WILD_FORMATS)
    return wild_format, wild_format.document(fields)


def _objects(value: Any) -> Iterator[Document]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, dict | list):
            yield from _objects(one)


def _encoded(
    kind: str, wild_format: WildFormat, content: bytes, *, is_valid: bool = False
) -> WildRequest:
    name = f"{kind} {wild_format.name}"
    if wild_format.method == "GET":
        path = f"{wild_format.path}?{content.decode('ascii')}"
        return WildRequest(name, "GET", path, headers=(), is_valid=is_valid)
    headers = (("content-type", wild_format.content_type),)
    return WildRequest(
        name, path=wild_format.path, headers=headers, content=content, is_valid=is_valid
    )


def _unknown_field(rng: random.Random) -> WildRequest:
    body = _body(rng)
    name = rng.choice(["guidence_scale", "step", "Prompt", "promt", "__class__", "a" * 5_000, ""])
    body["parameters"][name] = _odd_value(rng)
    return _as_request("unknown field", body)


def _broken_json(rng: random.Random) -> WildRequest:
    content = json.dumps(_body(rng)).encode()
    cut = rng.randrange(len(content))
    broken = rng.choice(
        [
            content[:cut],
            content[:cut] + b"\xff" + content[cut:],
            content + content,
            content.replace(b'"', b"'"),
            content.replace(b":", b"=", 1),
        ]
    )
    return WildRequest("broken JSON", content=broken)


def _odd_json(rng: random.Random) -> WildRequest:
    depth = rng.choice([10, 1_000, 100_000])
    content = json.dumps(_body(rng))
    odd = rng.choice(
        [
            b"\xef\xbb\xbf" + content.encode(),
            content.encode("utf-16"),
            b"[" * depth,
            b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}",
            b'{"prompt": "a", "seed": NaN}',
            b'{"prompt": "a", "width": Infinity}',
            b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}",
            b'{"prompt": "a", "prompt": "b"}',
            b'{"prompt": "\\ud800"}',
            b"null",
            b"[]",
            b"3",
            b'"text"',
        ]
    )
    return WildRequest("odd JSON", content=odd)


def _odd_bytes(rng: random.Random) -> WildRequest:
    return WildRequest("odd bytes", content=rng.randbytes(rng.choice([0, 1, 100, 10_000])))


def _hostile_picture(rng: random.Random) -> WildRequest:
    body = _body(rng)
    field = rng.choice(["image", "mask_image"])
    if field == "mask_image":
        body["parameters"]["image"] = _base64(_picture(rng))
    body["parameters"][field] = _base64(rng.choice(_HOSTILE)(rng))
    return _as_request("hostile picture", body)


def png(width: int, height: int, data: bytes, extra: bytes = b"", *, bit_depth: int = 8) -> bytes:
    """A PNG file of greyscale pixels with any header, and with ``extra`` chunks before the data."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data)) + chunk(
        b"IEND", b""
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def _thin(rng: random.Random) -> bytes:
    """A small file of a picture with one very long side."""
    length = rng.choice([2**16, 2**20, 2**25])
    rows = zlib.compress(b"\0" * (length + 1) if rng.random() < 0.5 else b"\0\0" * length)
    return png(*((length, 1) if rng.random() < 0.5 else (1, length)), rows)


def _truncated(rng: random.Random) -> bytes:
    content = _picture(rng)
    return content[: rng.randrange(len(content))]


def _flipped(rng: random.Random) -> bytes:
    content = bytearray(_picture(rng))
    for _ in range(rng.randint(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _claims_to_be_large(rng: random.Random) -> bytes:
    side = rng.choice([0, 2**15, 2**31 - 1])
    return png(side, side, zlib.compress(b"\0" * 100))


def _compressed_text(rng: random.Random) -> bytes:
    text = zlib.compress(b"a" * 50_000_000, 9)
    kind = rng.choice([b"zTXt", b"iCCP"])
    return png(64, 64, zlib.compress(b"\0" * 65 * 64), chunk(kind, b"name\0\0" + text))


def _of_another_format(rng: random.Random) -> bytes:
    file = io.BytesIO()
    image = Image.effect_noise((64, 64), 60)
    kind, mode = rng.choice(
        [
            ("GIF", "P"),
            ("TIFF", "I;16"),
            ("TIFF", "CMYK"),
            ("BMP", "1"),
            ("PNG", "LA"),
            ("PPM", "L"),
        ]
    )
    image.convert("L").convert(mode if mode != "I;16" else "I;16").save(file, kind)
    return file.getvalue()


def _not_a_picture(rng: random.Random) -> bytes:
    return rng.choice(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a" + bytes(20),
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%PDF-1.7",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"RIFF\x10\0\0\0WEBPVP8 " + bytes(9),
            b"\xff\xd8\xff\xe0" + bytes(30),
            rng.randbytes(500),
        ]
    )


_HOSTILE: tuple[Callable[[random.Random], bytes], ...] = (
    *(_thin, _truncated, _flipped, _claims_to_be_large, _compressed_text),
    *(_of_another_format, _not_a_picture),
)


def _wrong_route(rng: random.Random) -> WildRequest:
    path = rng.choice(
        [
            *("/v1/models/none:predict", "/v1/models/stable-diffusion:explain", "/v1/models/"),
            *(
                "/v2/models/stable-diffusion/infer",
                "/v2/repository/index",
                "/v1/models/%00:predict",
            ),
            *("/v2/repository/models/none/load", "/v2/repository/models/..%2f/unload", "/nothing"),
            *(
                "/v1/models/" + "a" * 3_000 + ":predict",
                _PREDICT,
                "/metrics",
                "/",
                "//",
                "/openapi.json",
            ),
        ]
    )
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"])
    return _as_request("wrong route", _body(rng), method=method, path=path)


def _odd_headers(rng: random.Random) -> WildRequest:
    content = json.dumps(_body(rng)).encode()
    headers = rng.choice(
        [
            (("content-type", "text/plain"),),
            (("content-type", "application/json; charset=utf-16"),),
            (("content-encoding", "gzip"),),
            (("content-encoding", "br"),),
            (("accept", "image/tiff"),),
            (("accept", ", ;q=x, */*;q=0"),),
            (("accept", "a" * 30_000),),
            (("inference-header-content-length", "x"),),
            (("ce-type", "x"), ("ce-id", "1"), ("ce-source", "y"), ("ce-specversion", "1.0")),
            (("content-type", "application/cloudevents+json"),),
            (("x-request-id", "a\tb"), ("traceparent", "00-zz")),
            tuple((f"x-{index}", "a" * 100) for index in range(300)),
        ]
    )
    if headers[0][1] == "gzip":
        content = gzip.compress(content)
    return WildRequest("odd headers", headers=headers, content=content)


def _raw_bytes(rng: random.Random) -> WildRequest:
    start = f"POST {_PREDICT} HTTP/1.1\r\nhost: a\r\n".encode()
    raw = rng.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            rng.randbytes(300),
            start + b"content-length: 10\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            start + b"content-length: -1\r\n\r\n",
            start + b"content-length: 99999999999999999999\r\n\r\n",
            start + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            start + b"expect: 100-continue\r\ncontent-length: 999999999\r\n\r\n",
            start + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"\r\n\r\n\r\n",
        ]
    )
    return WildRequest("raw bytes", raw=raw)


def _gone(rng: random.Random) -> WildRequest:
    """A caller that leaves: in the middle of the body, or after it."""
    content = json.dumps(_body(rng)).encode()
    head = f"POST {_PREDICT} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    whole = head + content
    cut = rng.choice([len(whole), rng.randrange(len(head), len(whole)), rng.randrange(len(head))])
    return WildRequest("gone", raw=whole[:cut], hangs_up=True)
