"""Headers of weights, and the index of shards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from downloader.errors import UnsuitableModelError
from downloader.weights import BadWeightsError, check_weights
from tests.downloader.pipeline_files import safetensors
from tests.downloader.volume import write_files


@pytest.fixture(params=[True, False], ids=["as in the image", "with NumPy"])
def _numpy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setitem(sys.modules, "numpy", None)


TENSOR = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}


def weights(header: object, size: int = 12) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        weights({"a": TENSOR}),
        weights({"a": TENSOR, "__metadata__": {"format": "pt"}}),
        weights({"b": {**TENSOR, "data_offsets": [12, 24]}, "a": TENSOR}, 24),
        weights({"empty": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": TENSOR}),
        weights({"a": {"dtype": "F4", "shape": [24], "data_offsets": [0, 12]}}),
        weights({}, 0),
        safetensors(1),
    ],
)
@pytest.mark.usefixtures("_numpy")
def test_good_headers_pass(tmp_path: Path, content: bytes) -> None:
    write_files(tmp_path, {"unet/x.safetensors": content})
    check_weights(tmp_path, ["unet/x.safetensors"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header too small"),
        (b"<html>not found</html>", "header too large"),
        (weights({"a": TENSOR})[:30], "invalid header length"),
        (weights(b"{"), "invalid JSON"),
        (weights(b"{]"), "invalid JSON"),
        (weights(b"[" * 100_000), "invalid JSON"),
        (weights(b"[]"), "invalid JSON"),
        (weights({"a": 1}), "invalid JSON"),
        (weights({"a": {"dtype": "F16", "shape": [2, 3]}}), "missing field `data_offsets`"),
        (weights({"a": {"dtype": "NEW", "shape": [1], "data_offsets": [0, 12]}}), "`NEW`"),
        (weights({"a": {**TENSOR, "shape": [-2, -3]}}), "integer `-2`"),
        (weights({"a": TENSOR}, 11), "file not fully covered"),
        (weights({"a": TENSOR}, 13), "file not fully covered"),
        (weights({"a": {**TENSOR, "shape": [7]}}), "invalid shape"),
        (weights({"a": {**TENSOR, "data_offsets": [1, 13]}}, 13), "invalid offset for tensor `a`"),
        (weights({"a": TENSOR, "b": TENSOR}), "invalid offset for tensor"),
        (weights({"a": {**TENSOR, "data_offsets": [0, -12]}}), "integer `-12`"),
    ],
)
@pytest.mark.usefixtures("_numpy")
def test_bad_headers_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    write_files(tmp_path, {"unet/x.safetensors": content})
    with pytest.raises(BadWeightsError, match=reason) as caught:
        check_weights(tmp_path, ["unet/x.safetensors"])
    assert str(caught.value).startswith("unet/x.safetensors: not a valid safetensors file: ")
    assert caught.value.path == "unet/x.safetensors"
    assert isinstance(caught.value, UnsuitableModelError)


def test_a_header_of_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "x.safetensors").open("wb") as stream:
        stream.write((5 << 30).to_bytes(8, "little"))
        stream.truncate(6 << 30)
    with pytest.raises(BadWeightsError, match="header too large"):
        check_weights(tmp_path, ["x.safetensors"])


INDEX = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"weight": "a.safetensors"}}, ""),
        ({"weight_map": {"other": "a.safetensors"}}, "'other' is not in a.safetensors"),
        ({"weight_map": {"weight": "b.safetensors"}}, "'weight' is not in b.safetensors"),
        ({"weight_map": {}}, "the index has no weight_map"),
        ({}, "the index has no weight_map"),
        ([], "the index is not a JSON object"),
    ],
)
def test_the_index_must_match_the_headers(tmp_path: Path, index: object, reason: str) -> None:
    files = {"unet/a.safetensors": safetensors(1), INDEX: json.dumps(index).encode()}
    write_files(tmp_path, files)
    if not reason:
        check_weights(tmp_path, files)
        return
    with pytest.raises(BadWeightsError, match=reason):
        check_weights(tmp_path, files)
