"""``torch.cuda.CUDAGraph`` for a CPU: records the operations of a capture and repeats them.

As on a GPU, a replay reads and writes the tensors of the capture, values that Python computed stay
what they were, and the capture itself computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Operation(NamedTuple):
    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: list[torch.Tensor]

    def repeat(self) -> None:
        found = tree_leaves(self.function(*self.arguments, **self.options))
        for result, one in zip(self.results, found, strict=True):
            if result.data_ptr() != one.data_ptr():
                result.copy_(one)


class _Recorder(TorchDispatchMode):
    def __init__(self, operations: list[_Operation]) -> None:
        super().__init__()
        self._operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not all(isinstance(one, torch.Tensor) for one in tree_leaves(result)):
            # It would have to wait for the GPU.
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self._operations.append(_Operation(func, args, kwargs or {}, tree_leaves(result)))
        return result


class RecordedGraph:
    """One graph; ``pool`` is the memory pool of its capture."""

    def __init__(self) -> None:
        self.operations: list[_Operation] = []
        self.pool: Any = None
        self.replays = 0

    def replay(self) -> None:
        """Repeat the operations on the tensors of the capture."""
        self.replays += 1
        for operation in self.operations:
            operation.repeat()

    def forget(self) -> None:
        """Overwrite what the capture computed, which a GPU would not have computed."""
        read = {
            id(one) for operation in self.operations for one in tree_leaves(operation.arguments)
        }
        made = [one for operation in self.operations for one in operation.results]
        last = [one for one in made if id(one) not in read and one.is_floating_point()]
        for one in last:
            one.fill_(float("nan"))


class FakeDevice:
    """What the fixture records, and what tests may change.

    ``free`` is the free memory in bytes, of which each capture takes ``taken``. ``recording`` are
    the pools that captures allocate from.
    """

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []
        self.modes: list[str] = []
        self.searches: list[bool] = []
        self.free, self.taken = 2**30, 0
        self.recording: list[Any] = []

    @contextmanager
    def capture(self, graph: RecordedGraph, pool: Any, capture_error_mode: str) -> Iterator[None]:
        """``torch.cuda.graph``."""
        graph.pool = pool
        self.modes.append(capture_error_mode)
        self.searches.append(torch.backends.cudnn.benchmark)
        if pool in self.recording:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.recording.append(pool)
        try:
            with _Recorder(graph.operations):
                yield
        except torch.OutOfMemoryError:
            self.recording.remove(pool)
            raise
        except Exception:
            # The capture is invalid.
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        self.recording.remove(pool)
        graph.forget()
        self.free -= self.taken
        self.graphs.append(graph)

    def end_allocation(self, device: int, pool: Any) -> None:
        """``torch._C._cuda_endAllocateToPool``."""
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    @property
    def replays(self) -> int:
        """The replays of all graphs."""
        return sum(graph.replays for graph in self.graphs)


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Capture on the CPU."""
    device = FakeDevice()
    pools = iter(range(1, 1_000))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", device.capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (device.free, 2**30))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", device.end_allocation)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: None)
    return device
