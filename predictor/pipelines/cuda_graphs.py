"""CUDA graphs of a UNet or transformer: one launch replays all kernels of a forward pass.

With few lanes, the GPU computes a pass faster than the CPU launches its kernels one by one. A graph
works on memory of its own, so each replay copies the arguments that changed into it. If it has
more lanes than a pass, the other rows keep what an earlier pass left there; samples do not affect
each other.
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import ref

import torch

from predictor.metrics import FORWARD_PASSES


class Pass(NamedTuple):
    """The arguments of a forward pass, with one row per lane, and how a UNet takes them.

    ``added`` are more conditions by name, such as SDXL's. ``positions`` are arguments that have no
    lanes and follow from the shapes of the others.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    hidden_states: torch.Tensor
    added: Mapping[str, torch.Tensor] | None = None
    positions: Mapping[str, torch.Tensor] | None = None

    @property
    def lanes(self) -> int:
        """The number of samples."""
        return len(self.latents)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All arguments with lanes, in a fixed order."""
        return (self.latents, self.timesteps, self.hidden_states, *(self.added or {}).values())

    @property
    def form(self) -> Hashable:
        """The names and shapes of the arguments without the lanes."""
        return (*(self.added or {}), *(one.shape[1:] for one in self.tensors))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Pass:
        """The same pass with each argument with lanes changed."""
        added = None if self.added is None else {k: change(one) for k, one in self.added.items()}
        return self._replace(
            latents=change(self.latents),
            timesteps=change(self.timesteps),
            hidden_states=change(self.hidden_states),
            added=added,
        )

    def resized(self, lanes: int) -> Pass:
        """A copy with this many lanes, which repeats the rows as often as needed."""
        times = -(-lanes // self.lanes)
        return self.map(lambda one: torch.cat([one] * times)[:lanes])

    def run(self, network: Any, residuals: Mapping[str, Any] | None = None) -> torch.Tensor:
        """Call the network; ``residuals`` are keyword arguments from a ControlNet."""
        prediction: torch.Tensor = network(
            self.latents,
            self.timesteps,
            encoder_hidden_states=self.hidden_states,
            added_cond_kwargs=self.added,
            **(residuals or {}),
            return_dict=False,
        )[0]
        return prediction


class CapturedPass:
    """The graph of one pass; call it from a single thread, in inference mode.

    It holds the addresses of the network's weights, so they must not move.
    """

    def __init__(self, network: Any, example: Pass, pool: Any) -> None:
        """Capture a pass like ``example``, which the network has run before to select its kernels.

        Raises:
            RuntimeError: the pass does not fit into memory, or cannot be captured.
        """
        self.lanes = example.lanes
        self._arguments = example.map(torch.clone)
        self._copied = [ref(one) for one in example.tensors]
        self._graph = torch.cuda.CUDAGraph()
        try:
            with (
                # ``torch.cuda.graph`` leaves its own stream as the current one if a capture fails.
                torch.cuda.stream(torch.cuda.current_stream()),
                # Other threads, such as that of another model's engine, may allocate meanwhile.
                torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
            ):
                self._prediction = self._arguments.run(network)
        except BaseException:
            _end_allocation(example.latents.device, pool)
            raise

    def replay(self, given: Pass) -> torch.Tensor:
        """The prediction for a pass of the same form with at most as many lanes.

        A tensor that the last replay got too is not copied again, so nothing may write to it.
        """
        arguments = zip(self._arguments.tensors, given.tensors, self._copied, strict=True)
        for own, one, copied in arguments:
            if one is not copied():
                own[: given.lanes].copy_(one)
        self._copied = [ref(one) for one in given.tensors]
        self._graph.replay()
        # The next replay overwrites it.
        return self._prediction[: given.lanes].clone()


def _end_allocation(device: torch.device, pool: Any) -> None:
    """Stop allocating from the pool after a failed capture.

    ``CUDAGraph.capture_end`` does not reach this if the capture is invalid. Until then, torch's
    allocator reuses no memory that two streams use.
    """
    # It raises if the allocation has ended.
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device.index or 0, pool)
        torch._C._cuda_releasePool(device.index or 0, pool)


class CudaGraphs:
    """Runs the passes of one network: as a graph if one is captured that fits, otherwise eagerly.

    All graphs share one memory pool, of about ``memory_bytes``.
    """

    def __init__(self) -> None:
        self.memory_bytes = 0
        self._captured: dict[Hashable, list[CapturedPass]] = {}
        self._on_pass: Callable[[Pass], object] = lambda _: None
        self._pool: Any = None

    def run(
        self,
        network: Any,
        given: Pass,
        residuals: Mapping[str, Any] | None = None,
        *,
        is_adapted: bool = False,
    ) -> torch.Tensor:
        """The prediction; passes with residuals or on adapted layers always run eagerly."""
        # Timesteps are whole or fractional, which depends on the scheduler.
        given = given._replace(timesteps=given.timesteps.float())
        self._on_pass(given)
        graph = None if residuals or is_adapted else self._fitting(given)
        FORWARD_PASSES.labels("eager" if graph is None else "graph").inc()
        return given.run(network, residuals) if graph is None else graph.replay(given)

    def arguments_of(self, run: Callable[[], object]) -> Pass:
        """The arguments of the pass that ``run`` causes."""
        seen: list[Pass] = []
        self._on_pass = seen.append
        try:
            run()
        finally:
            self._on_pass = lambda _: None
        return seen[-1]

    def capture(self, network: Any, example: Pass) -> CapturedPass:
        """Capture a pass into the shared pool, without using it yet; see ``CapturedPass``."""
        if not self._captured:
            # Graphs that were not kept may have left a larger pool than later ones need.
            self._pool = torch.cuda.graph_pool_handle()
        return CapturedPass(network, example, self._pool)

    def keep(self, example: Pass, graph: CapturedPass, memory_bytes: int = 0) -> None:
        """Replay this graph from now on for passes of the form of ``example``.

        Its capture has added ``memory_bytes`` to the pool.
        """
        self.memory_bytes += memory_bytes
        insort(self._captured.setdefault(example.form, []), graph, key=attrgetter("lanes"))

    def _fitting(self, given: Pass) -> CapturedPass | None:
        graphs = self._captured.get(given.form, ())
        return next((graph for graph in graphs if graph.lanes >= given.lanes), None)
