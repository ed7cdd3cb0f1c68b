"""JSON bodies: what is valid, and the bounds on depth and number of values."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.errors import InvalidRequestError
from predictor.protocol.json_body import MAX_DEPTH, MAX_VALUES, check_shape, read_json


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        read_json(body)
    return str(caught.value)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"\\u0000\\ud83d\\ude00"', "\0\N{GRINNING FACE}"),
        (b"18446744073709551615", 2**64 - 1),
        (b"1e300", 1e300),
    ],
)
def test_valid_json_is_read(body: bytes, expected: Any) -> None:
    assert read_json(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"NaN", b"-Infinity", b"1e999", b"1" * 400, b'"\\ud800"', b'"\\udc00"'),
        *(
            b'"\xff"',
            b"\xff\xfe{\0}\0",
            b"\xef\xbb\xbf\xef\xbb\xbf{}",
            nested(100_000),
            b"[" * 10**6,
        ),
    ],
)
def test_other_text_is_not_json(body: bytes) -> None:
    assert refusal(body).startswith("the body is not valid JSON: ")


def test_the_depth_is_bounded() -> None:
    assert read_json(nested(MAX_DEPTH))
    assert refusal(nested(MAX_DEPTH + 1)) == "the body is nested more than 32 levels deep"
    assert refusal(b'{"a":' * 1000 + b"1" + b"}" * 1000).endswith("32 levels deep")


def test_the_number_of_values_is_bounded() -> None:
    most = b"[" + b"0," * (MAX_VALUES - 2) + b"0]"
    assert len(read_json(most)) == MAX_VALUES - 1

    for body in (
        b"[" + b"0," * (MAX_VALUES - 1) + b"0]",
        b"[" + b"[0,0]," * (MAX_VALUES // 2) + b"0]",
        b"{" + b",".join(b'"%d": 0' % index for index in range(MAX_VALUES)) + b"}",
    ):
        assert refusal(body) == "the body has more than 2000 values"


def test_a_document_that_the_server_has_parsed_is_bounded_too() -> None:
    document: Any = "x"
    for _ in range(5000):
        document = {"prompt": document}

    with pytest.raises(InvalidRequestError, match="nested more than 32 levels"):
        check_shape(document)
