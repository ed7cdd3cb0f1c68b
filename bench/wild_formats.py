"""Every wire format of the server but plain ``:predict``, as its clients write it.

A request starts as ``Document``: the format's own fields, which ``encode`` turns into a query or a
body. A test can change either.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

from demo.run import NAME

Document = dict[str, Any]
_BOUNDARY = "wild"


class WildFormat(NamedTuple):
    """A wire format.

    ``document`` writes fields of the table (flat, ``image`` as the bytes of a file) as those of the
    format, ``encode`` writes the document as bytes. A GET has them in the query.
    """

    name: str
    path: str
    document: Callable[[Document], Document]
    content_type: str = "application/json"
    encode: Callable[[Document], bytes] = lambda document: json.dumps(document).encode()
    method: str = "POST"


def _generation(fields: Document) -> Document:
    return {
        "model": NAME,
        "prompt": fields["prompt"],
        "n": 1,
        "size": f"{fields['width']}x{fields['height']}",
        "response_format": "b64_json",
        "seed": fields["seed"],
        "num_inference_steps": fields["num_inference_steps"],
    }


def _edit(fields: Document) -> Document:
    return _generation(fields) | {"image": fields["image"], "strength": 1.0}


def _tensors(fields: Document) -> Document:
    inputs = {"prompt": "BYTES", "seed": "INT64"}
    return {
        "id": "wild",
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [1], "data": [fields[name]]}
            for name, datatype in inputs.items()
        ],
        "outputs": [{"name": "image"}, {"name": "seed"}],
        "parameters": {name: fields[name] for name in ("width", "height", "num_inference_steps")},
    }


def _link(fields: Document) -> Document:
    return {name: value for name, value in fields.items() if name != "image"}


def _imagine_link(fields: Document) -> Document:
    return {
        "model": NAME,
        "prompt": fields["prompt"],
        "img_size": fields["width"],
        "seed": fields["seed"],
        "steps": fields["num_inference_steps"],
    }


def _txt2img(fields: Document) -> Document:
    return {
        "prompt": fields["prompt"],
        "negative_prompt": "",
        "seed": fields["seed"],
        "steps": fields["num_inference_steps"],
        "width": fields["width"],
        "height": fields["height"],
        "cfg_scale": 3,
        "sampler_name": "Euler a",
        "batch_size": 1,
        "n_iter": 1,
        "override_settings": {"samples_format": "png"},
    }


def _img2img(fields: Document) -> Document:
    image = base64.b64encode(fields["image"]).decode()
    return _txt2img(fields) | {"init_images": [image], "denoising_strength": 1.0}


def _event(fields: Document) -> Document:
    attributes = {"specversion": "1.0", "id": "1", "source": "/wild", "type": "wild.request"}
    return attributes | {"data": _link(fields)}


def _as_query(document: Document) -> bytes:
    texts = {name: _text(value) for name, value in document.items()}
    return urlencode(texts, errors="surrogatepass").encode()


def _as_form(document: Document) -> bytes:
    parts = []
    for name, value in document.items():
        file = '; filename="a.png"' if isinstance(value, bytes) else ""
        content = value if file else _text(value).encode("utf-8", "surrogatepass")
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


WILD_FORMATS: tuple[WildFormat, ...] = (
    WildFormat("generations", "/openai/v1/images/generations", _generation),
    WildFormat(
        "edits", "/v1/images/edits", _edit, f"multipart/form-data; boundary={_BOUNDARY}", _as_form
    ),
    WildFormat("tensors", f"/v2/models/{NAME}/infer", _tensors),
    WildFormat("link", f"/v1/models/{NAME}/picture", _link, "", _as_query, "GET"),
    WildFormat("imagine", "/imagine", _imagine_link, "", _as_query, "GET"),
    WildFormat("txt2img", "/sdapi/v1/txt2img", _txt2img),
    WildFormat("img2img", "/sdapi/v1/img2img", _img2img),
    WildFormat("event", f"/v1/models/{NAME}:predict", _event, "application/cloudevents+json"),
)
"""Those of A1111 require the setting ``a1111_api``."""
