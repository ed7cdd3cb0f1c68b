"""Compiled code of a network runs for the arguments that it was compiled for, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.aot_compile_types import GraphModuleSerializableCallable
from torch._dynamo.utils import counters

from predictor.pipelines.compiled_forward import CompiledForward


class Network(torch.nn.Module):
    """Counts its own passes; compiled code does not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 2.0))
        self.passes = 0

    def forward(self, latents: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.passes += 1
        scaled = latents * self.weight
        return scaled if bias is None else scaled + bias


@pytest.fixture(autouse=True)
def no_kernels() -> Iterator[None]:
    """Keep torch's graphs as they are: a C++ compiler takes long."""
    torch.compiler.reset()
    torch.compiler.set_default_backend(lambda graph, inputs: GraphModuleSerializableCallable(graph))
    yield
    torch.compiler.set_default_backend(None)
    torch.compiler.reset()


@torch.inference_mode()
def compiled(network: Network, folder: Path | None = None, lanes: int = 2) -> CompiledForward:
    forward = CompiledForward(network, folder)
    with forward.compiling():
        network(torch.ones(lanes, 3))
    network.passes = 0
    return forward


@torch.inference_mode()
def test_code_covers_other_sizes() -> None:
    network = Network()
    compiled(network)

    assert network(torch.ones(5, 3)).tolist() == [[2.0] * 3] * 5
    assert network.passes == 0


@torch.inference_mode()
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"latents": torch.ones(2, 3), "bias": torch.ones(3)}, 3.0),
        ({"latents": torch.ones(2, 3, dtype=torch.float64)}, 2.0),
        ({"latents": torch.ones(2, 2, 3)}, 2.0),
        # A single lane is a size of its own.
        ({"latents": torch.ones(1, 3)}, 2.0),
    ],
    ids=["another argument", "another type", "another dimension", "a single lane"],
)
def test_other_arguments_run_the_network_itself(arguments: Any, expected: float) -> None:
    network = Network()
    compiled(network)
    latents = arguments.pop("latents")

    assert set(network(latents, **arguments).flatten().tolist()) == {expected}
    assert network.passes == 1


@torch.inference_mode()
def test_arguments_that_callers_choose_are_not_kept() -> None:
    network = Network()
    forward = compiled(network)
    before = len(forward._codes)

    for dimensions in range(3, 20):
        network(torch.ones([1] * dimensions + [3]))

    assert len(forward._codes) == before


@torch.inference_mode()
def test_code_uses_the_weights_of_the_moment() -> None:
    network = Network()
    compiled(network)
    network.weight.copy_(torch.full((3,), 5.0))

    assert network(torch.ones(2, 3)).tolist() == [[5.0] * 3] * 2
    assert network.passes == 0


@torch.inference_mode()
def test_kept_code_is_not_compiled_again(tmp_path: Path) -> None:
    first = compiled(Network(), tmp_path)
    assert (first.compiled, first.restored) == (1, 0)
    torch.compiler.reset()
    counters.clear()

    network = Network()
    network.weight.fill_(3.0)
    second = compiled(network, tmp_path)

    assert (second.compiled, second.restored) == (0, 1)
    assert counters["stats"]["unique_graphs"] == 0
    assert network(torch.ones(4, 3)).tolist() == [[3.0] * 3] * 4
    assert network.passes == 0


@torch.inference_mode()
def test_sizes_that_kept_code_does_not_fit_are_added_to_it(tmp_path: Path) -> None:
    compiled(Network(), tmp_path)

    added = compiled(Network(), tmp_path, lanes=1)
    both = compiled(Network(), tmp_path, lanes=1)

    assert (added.compiled, added.restored) == (1, 1)
    assert (both.compiled, both.restored) == (0, 2)


@torch.inference_mode()
def test_damaged_code_is_compiled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiled(Network(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])

    network = Network()
    again = compiled(network, tmp_path)

    assert (again.compiled, again.restored) == (1, 0)
    assert network(torch.ones(3, 3)).tolist() == [[2.0] * 3] * 3
    (line,) = [one for one in caplog.messages if one.startswith("compiling again: ")]
    assert "\n" not in line
    assert compiled(Network(), tmp_path).restored == 1


@torch.inference_mode()
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network()
    compiled(network, tmp_path / "missing")

    assert network(torch.ones(3, 3)).tolist() == [[2.0] * 3] * 3
    assert network.passes == 0
    assert len([one for one in caplog.messages if "code is not kept" in one]) == 1
