"""The dtype of the loaded weights."""

from __future__ import annotations

import pytest
import torch

from predictor.checkpoint.families import FAMILIES
from predictor.checkpoint.placement import pick_dtype
from predictor.settings import Settings

BY_NAME = {family.name: family for family in FAMILIES}
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without"])
def has_bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: request.param)
    has: bool = request.param
    return has


@pytest.mark.parametrize("name", BY_NAME)
def test_each_family_has_its_own_dtype_on_a_gpu(name: str, has_bfloat16: bool) -> None:
    family = BY_NAME[name]

    picked = pick_dtype(Settings(), GPU, family)

    assert picked == (getattr(torch, family.gpu_dtype) if has_bfloat16 else torch.float16)


def test_flux_does_not_use_float16_if_the_gpu_has_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    assert pick_dtype(Settings(), GPU, BY_NAME["flux-dev"]) == torch.bfloat16
    assert pick_dtype(Settings(), GPU, BY_NAME["sdxl"]) == torch.float16


def test_a_cpu_uses_float32_and_a_setting_overrides_it() -> None:
    assert pick_dtype(Settings(), CPU, BY_NAME["flux-dev"]) == torch.float32
    assert pick_dtype(Settings(dtype="bfloat16"), CPU, BY_NAME["sd1"]) == torch.bfloat16
    assert pick_dtype(Settings(dtype="float32"), GPU, BY_NAME["sd1"]) == torch.float32
