"""A GPU that a CPU pretends to be: it counts what a real one would launch, copy and wait for.

A tensor on it computes on the CPU, but has the device ``cuda:0``, so the code under test takes its
CUDA branches. An operation that mixes devices raises, as on CUDA. Times are those of the CPU.

    with gpu.watched("turn"):
        ...
    gpu.counts["turn"].kernels
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")

# Operations whose result the host needs, or whose size depends on the data.
_WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim"),
    *("_unique2", "_linalg_check_errors", "repeat_interleave"),
}
# Memory without a kernel, and views that torch does not declare as such.
_FREE = {
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view"),
    *("detach", "lift_fresh", "alias", "resize_", "set_"),
}
_JOINS = {"cat", "stack"}
# One kernel on CUDA, many on a CPU.
_FUSED = {"scaled_dot_product_attention"}


@dataclass
class Counts:
    """What one phase did.

    ``waits`` are host synchronizations, those of blocking copies included. ``event_waits`` wait for
    earlier work only, so the GPU has more to do meanwhile. ``host_operations`` run
    on the CPU; views count, as each costs its dispatch. ``names`` says which ones, and ``where``
    is the line of each wait.
    """

    kernels: int = 0
    uploads: int = 0
    downloads: int = 0
    waits: int = 0
    event_waits: int = 0
    host_operations: int = 0
    names: Counter[str] = field(default_factory=Counter)
    where: Counter[str] = field(default_factory=Counter)


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended GPU; ``data_on_cpu`` holds its numbers."""

    gpu: ClassVar[PretendedGpu]
    data_on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, data: torch.Tensor) -> PretendedTensor:
        # For C++ it is on "meta": a build without CUDA has no device guard for "cuda".
        made: PretendedTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            layout=data.layout,
            device=torch.device("meta"),
        )
        made.data_on_cpu = data
        return made

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"

    def __format__(self, specification: str) -> str:
        return repr(self)

    def record_stream(self, stream: Any) -> None:
        """Memory is never reused here."""

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return cls.gpu.run(func, args, dict(kwargs or {}))


class _Watching(TorchDispatchMode):
    """Sends each operation of a thread to the GPU, those on CPU tensors included."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._gpu.run(func, args, dict(kwargs or {}))


class PretendedGpu:
    """Replaces CUDA in ``torch`` until the test ends; ``counts`` are by phase.

    Everything outside ``watched`` and the threads that it starts counts as phase ``""``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        self._phases = threading.local()
        # The memory itself is kept, so that no later tensor has the same address.
        self._pinned: dict[int, torch.Tensor] = {}
        PretendedTensor.gpu = self
        _install(monkeypatch, self)

    @contextmanager
    def watched(self, phase: str) -> Iterator[Counts]:
        """Count the operations of this thread under ``phase``; the innermost phase counts."""
        before = self.phase
        self._phases.current = phase
        is_watched = getattr(self._phases, "is_watched", False)
        self._phases.is_watched = True
        try:
            with nullcontext() if is_watched else _Watching(self):
                yield self.counts[phase]
        finally:
            self._phases.current = before
            self._phases.is_watched = is_watched

    @property
    def phase(self) -> str:
        """The phase of this thread."""
        return getattr(self._phases, "current", "")

    def wait(self, name: str) -> None:
        """Note that the host waits for the GPU."""
        self._note("waits", name)
        for frame in reversed(traceback.extract_stack()):
            is_ours = Path(frame.filename) == Path(__file__)
            if not is_ours and "/torch/" not in frame.filename:
                where = f"{name}: {'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"
                self._counts.where[where] += 1
                return

    @torch.inference_mode()
    def move(self, module: torch.nn.Module) -> None:
        """Move the weights of a module to the GPU; it is then of use in inference mode only."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    moved = PretendedTensor(parameter.data)
                    part._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = PretendedTensor(buffer)

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one operation, and count it."""
        leaves = tree_leaves((args, kwargs))
        # Under ``inference_mode``, operations arrive that only call others.
        name = func._schema.name.partition("::")[2]
        touches_gpu = any(isinstance(one, PretendedTensor) for one in leaves)
        if (touches_gpu or _is_on_gpu(leaves, kwargs)) and name not in _FUSED:
            with _Watching(self):
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if name in ("_to_copy", "copy_"):
            return self._copy(func, name, args, kwargs)
        if name in ("pin_memory", "_pin_memory"):
            self._note("host_operations", name)
            return self._pin(args[0].clone())
        if name == "is_pinned":
            return self._is_pinned(args[0])
        return self._compute(func, name, args, kwargs, leaves)

    def _compute(
        self,
        func: Any,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        leaves: Sequence[Any],
    ) -> Any:
        is_pinned = kwargs.pop("pin_memory", False)
        if not _is_on_gpu(leaves, kwargs):
            if name not in _FREE:
                self._note("host_operations", name)
            result = _on_cpu(func, args, kwargs)
            return self._pin(result) if is_pinned else result
        self._check_devices(func, name, args, leaves)
        if name in _WAITS:
            self.wait(name)
        elif not (func.is_view or name in _FREE or name.startswith("sym_")):
            self._note("kernels", name, _launches(name, leaves))
        result = _on_cpu(func, args, kwargs)
        if name.endswith("_") and not name.endswith("__"):
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(
            lambda one: PretendedTensor(one) if isinstance(one, torch.Tensor) else one, result
        )

    def _check_devices(
        self, func: Any, name: str, args: Sequence[Any], leaves: Sequence[Any]
    ) -> None:
        """Raise where CUDA does: only numbers, and indices, may be on the CPU."""
        cpu = [
            one
            for one in leaves
            if isinstance(one, torch.Tensor) and not isinstance(one, PretendedTensor)
        ]
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            for index in filter(lambda one: isinstance(one, torch.Tensor), args[1]):
                if index.dtype in (torch.bool, torch.uint8):
                    self.wait(name)
                if any(index is one for one in cpu):
                    self.wait(name)
            return
        if any(one.dim() > 0 for one in cpu) or (cpu and name in (*_JOINS, "where")):
            shapes = [tuple(one.shape) for one in cpu]
            raise RuntimeError(
                f"expected all tensors to be on the same device: {func}, {shapes} is on the CPU"
            )

    def _copy(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if name == "_to_copy":
            source, to_gpu = args[0], _is_on_gpu(args, kwargs)
            kwargs.pop("pin_memory", None)
            is_async = kwargs.get("non_blocking", False)
            host = None if to_gpu else _on_cpu(func, args, kwargs)
        else:
            host, source = args[0], args[1]
            to_gpu = isinstance(host, PretendedTensor)
            is_async = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        from_gpu = isinstance(source, PretendedTensor)
        if from_gpu and to_gpu:
            self._note("kernels", name)
        elif to_gpu:
            self._note("uploads", name)
            # A copy from pageable memory waits even if it should not.
            if not (is_async and self._is_pinned(source)):
                self.wait(name)
        elif from_gpu:
            self._note("downloads", name)
            if not (is_async and self._is_pinned(args[0])):
                self.wait(name)
        else:
            self._note("host_operations", name)
        if name == "copy_":
            _on_cpu(func, args, kwargs)
            return args[0]
        return PretendedTensor(_on_cpu(func, args, kwargs)) if to_gpu else host

    @property
    def _counts(self) -> Counts:
        return self.counts[self.phase]

    def _note(self, what: str, name: str, times: int = 1) -> None:
        counts = self._counts
        setattr(counts, what, getattr(counts, what) + times)
        counts.names[f"{what}: {name}"] += times

    def _pin(self, memory: torch.Tensor) -> torch.Tensor:
        self._pinned[memory.untyped_storage().data_ptr()] = memory
        return memory

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned


def _is_on_gpu(leaves: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the result is: an operation without a device of its own follows its tensors."""
    devices = [kwargs["device"]] if kwargs.get("device") is not None else []
    devices += [one for one in leaves if isinstance(one, torch.device)]
    if devices:
        return torch.device(devices[0]).type in ("cuda", "meta")
    return any(isinstance(one, PretendedTensor) for one in leaves)


def _launches(name: str, leaves: Sequence[Any]) -> int:
    """One, but CUDA joins tensors of different dtypes with a copy of each."""
    tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
    is_mixed = name in _JOINS and len({one.dtype for one in tensors}) > 1
    return len(tensors) if is_mixed else 1


def _on_cpu(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    def plain(one: Any) -> Any:
        if isinstance(one, PretendedTensor):
            return one.data_on_cpu
        is_gpu = isinstance(one, torch.device) and one.type in ("cuda", "meta")
        return torch.device("cpu") if is_gpu else one

    with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
        return func(*tree_map(plain, tuple(args)), **tree_map(plain, dict(kwargs)))


class _Stream:
    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event


def _install(monkeypatch: pytest.MonkeyPatch, gpu: PretendedGpu) -> None:
    class Event:
        """``synchronize`` waits for this point only, not for later work: counted by its name."""

        def __init__(self, *arguments: Any, **options: Any) -> None: ...

        def record(self, stream: Any = None) -> None: ...

        def wait(self, stream: Any = None) -> None: ...

        def query(self) -> bool:
            return True

        def elapsed_time(self, end: Any) -> float:
            return 1.0

        def synchronize(self) -> None:
            gpu._note("event_waits", "synchronize")

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(cuda, "Stream", _Stream)
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(cuda, "current_stream", lambda *arguments: _Stream())
    monkeypatch.setattr(cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(cuda, "synchronize", lambda *arguments: gpu.wait("synchronize"))
    # C++ fills the tensor and moves it where no dispatch mode sees it.
    tensor = torch.tensor

    def made(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> torch.Tensor:
        one = tensor(data, dtype=dtype, **options)
        return one if device is None else one.to(device)

    monkeypatch.setattr(torch, "tensor", made)
    run = threading.Thread.run

    def run_watched(thread: threading.Thread) -> None:
        with gpu.watched(thread.name.partition("_")[0]):
            run(thread)

    monkeypatch.setattr(threading.Thread, "run", run_watched)
