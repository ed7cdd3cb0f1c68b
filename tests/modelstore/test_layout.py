"""Where things lie, and names that could lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelstore import ModelStore
from modelstore.errors import InvalidNameError

STORE = ModelStore(Path("/mnt/models"))


def test_a_name_has_its_own_paths() -> None:
    names = ["sd", "sd.lock", "sd.replaced"]
    paths = [
        path
        for name in names
        for path in (STORE.model(name), STORE.staging(name), STORE.replaced(name), STORE.lock(name))
    ]
    assert len(set(paths)) == len(paths)
    assert STORE.model("sd") == Path("/mnt/models/sd")
    assert STORE.staging("sd") == Path("/mnt/models/.staging/sd")


@pytest.mark.parametrize("name", ["a", "SDXL", "sd-1.5_fp16", "a" * 63])
def test_plain_names_are_accepted(name: str) -> None:
    assert STORE.model(name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", ".staging", "-a", "a-", "a b", "a\n", "ä", "a" * 64]
)
def test_other_names_are_refused(name: str) -> None:
    for path in (STORE.model, STORE.staging, STORE.replaced, STORE.lock):
        with pytest.raises(InvalidNameError, match="use 1 to 63"):
            path(name)
