"""Forms, queries and tensors as JSON values, without a server."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.errors import InvalidRequestError
from predictor.wire_formats import A1111, ROUTED, WireFormat
from predictor.wire_formats.form_fields import multipart_fields, nested, query_fields, typed
from predictor.wire_formats.openai_images import ImageEdits
from predictor.wire_formats.tensor_inference import TensorInference
from predictor.wire_formats.tensors import read_inputs

FORM = "multipart/form-data; boundary=x"
# Parts of hostile bodies, so that many of them get past the first check.
PIECES = (
    *(
        b"--x",
        b"--x--",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b": ",
        b";",
        b'"',
        b"\0",
        b"\xff",
        b"=",
    ),
    *(
        b"Content-Disposition: form-data; name=",
        b'"image"',
        b'"image[]"',
        b'"a[b][c]"',
        b'"a[][b]"',
    ),
    *(
        b'; filename="f"',
        b"Content-Type: text/plain",
        b'{"inputs":[{"name":"prompt",',
        b'"shape":[',
    ),
    *(
        b'"datatype":"BYTES","data":["a"]}]}',
        b'"parameters":{"binary_data_size":4}',
        b"1",
        b"[",
        b"]",
    ),
    *(b'{"init_images":["', b'"override_settings":{"sd_model_checkpoint":'),
    *(b"prompt=a", b"&", b"seed=1", b"%00", b"%ff", b"steps=NaN", b"adapters=[[", b"}", b",", b"{"),
)


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--x\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (disposition.encode(), value)


def test_parts_are_text_and_files_are_bytes() -> None:
    body = (
        part("prompt", "ein Löwe".encode()) + part("image", b"\x89\r\n--", "a.png") + b"--x--\r\n"
    )

    assert multipart_fields(body, FORM) == [("prompt", "ein Löwe"), ("image", b"\x89\r\n--")]


def test_nested_names_become_lists_and_objects() -> None:
    fields = [
        *(("a", "1"), ("list[]", "x"), ("list[]", "y"), ("object[key]", "z")),
        # As OpenAI's client orders them.
        *(("rows[][name]", "one"), ("rows[][name]", "two")),
        *(("rows[][scale]", "1"), ("rows[][scale]", "2"), ("odd[", "w")),
    ]

    assert nested(fields) == {
        "a": "1",
        "list": ["x", "y"],
        "object": {"key": "z"},
        "rows": [{"name": "one", "scale": "1"}, {"name": "two", "scale": "2"}],
        "odd[": "w",
    }


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([("a", "1"), ("a", "2")], "a: is given twice"),
        ([("a", "1"), ("a[]", "2")], "a: is given twice"),
        ([("a[]", "1"), ("a[b]", "2")], "a: is given twice"),
        ([("a[b]", "1"), ("a[b]", "2")], r"a\[b\]: is given twice"),
        ([("a[][b]", "1"), ("a[][b]", "2"), ("a[][c]", "3")], "a: the entries differ"),
    ],
)
def test_ambiguous_names_are_refused(fields: list[tuple[str, str]], error: str) -> None:
    with pytest.raises(InvalidRequestError, match=error):
        nested(fields)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"seed": "7"}, {"seed": 7}),
        ({"cfg_scale": "2.5"}, {"cfg_scale": 2.5}),
        ({"prompt": "7", "sampler": "1"}, {"prompt": "7", "sampler": "1"}),
        ({"flag": "True", "name": "True"}, {"flag": True, "name": "True"}),
        ({"seed": "", "prompt": ""}, {"prompt": ""}),
        ({"seed": "NaN", "steps": "1e999"}, {"seed": "NaN", "steps": "1e999"}),
        ({"adapters": '[{"name": "a"}]'}, {"adapters": [{"name": "a"}]}),
        (
            {"adapters": [{"name": "1", "scale": "2"}], "controlnet": {"name": "3"}},
            {"adapters": [{"name": "1", "scale": 2}], "controlnet": {"name": "3"}},
        ),
        ({"other": "1"}, {"other": "1"}),
    ],
)
def test_numbers_are_read_and_texts_are_kept(
    given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert typed(given, {"flag": False, "name": True}) == expected


@pytest.mark.parametrize("name", ["prompt", "mask[]", "adapters[][name]", "controlnet[name]", "x"])
def test_only_pictures_are_files(name: str) -> None:
    body = part("image", b"\xff", "a.png") + part(name, b"\xff", "b.png") + b"--x--\r\n"

    with pytest.raises(InvalidRequestError, match="must not be a file"):
        ImageEdits().document(body, {"content-type": FORM})


def test_the_pictures_of_a_form_become_base64() -> None:
    fields = ("image", "mask", "controlnet[image]")
    body = b"".join(part(name, b"\xff", "a.png") for name in fields) + b"--x--\r\n"

    assert ImageEdits().document(body, {"content-type": FORM}) == {
        "image": "/w==",
        "mask_image": "/w==",
        "controlnet": {"image": "/w=="},
    }


def test_a_query_is_decoded() -> None:
    assert query_fields(b"prompt=a+red%20star&n=&x") == [
        *(("prompt", "a red star"), ("n", ""), ("x", "")),
    ]
    with pytest.raises(InvalidRequestError, match="more than 256 fields"):
        query_fields(b"a=1&" * 300)


def test_numbers_that_are_not_finite_are_refused() -> None:
    tensor = {"name": "strength", "datatype": "FP64", "shape": [1]}
    parameters = {"parameters": {"binary_data_size": 8}}

    assert read_inputs([tensor | parameters], struct.pack("<d", 0.5)) == {"strength": [0.5]}
    with pytest.raises(InvalidRequestError, match="strength: has numbers that are not finite"):
        read_inputs([tensor | parameters], struct.pack("<d", float("nan")))


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT32", "UINT64", "FP32"])
def test_other_numbers_are_read(datatype: str) -> None:
    code = {"INT8": "b", "UINT8": "B", "INT32": "i", "UINT64": "Q", "FP32": "f"}[datatype]
    content = struct.pack(f"<2{code}", 1, 2)
    parameters = {"binary_data_size": len(content)}
    tensor = {"name": "seed", "datatype": datatype, "shape": [2, 1], "parameters": parameters}

    assert read_inputs([tensor], content) == {"seed": [1, 2]}


def test_rows_that_repeat_too_many_values_are_refused_before_they_are_made() -> None:
    """Each row repeats the inputs with one element, so a small body could make a large document."""
    single = [
        {"name": f"field {index}", "datatype": "INT8", "shape": [1], "data": [1]}
        for index in range(100)
    ]
    rows = {"name": "seed", "datatype": "UINT8", "shape": [2000]}
    rows["parameters"] = {"binary_data_size": 2000}
    text = json.dumps({"inputs": [rows, *single]}).encode()
    headers = {"inference-header-content-length": str(len(text))}

    with pytest.raises(InvalidRequestError, match="inputs: 2000 rows have more than 2000 values"):
        TensorInference().document(text + bytes(2000), headers)


@pytest.mark.parametrize("wire_format", (*ROUTED, *A1111), ids=lambda one: one.name)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=30),
    length=st.one_of(
        st.none(), st.integers(0, 200).map(str), st.sampled_from(("-1", "x", "9" * 30))
    ),
)
def test_any_body_is_an_object_or_refused(
    wire_format: WireFormat, pieces: list[bytes], length: str | None
) -> None:
    headers = {"content-type": FORM}
    if length is not None:
        headers["inference-header-content-length"] = length

    try:
        document = wire_format.document(b"".join(pieces), headers)
    except InvalidRequestError:
        return
    # As a reader process sends it.
    assert isinstance(json.loads(json.dumps(document, allow_nan=False)), dict)
