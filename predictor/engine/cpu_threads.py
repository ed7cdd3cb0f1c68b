"""How many CPU threads torch uses for the work of one thread.

One for threads that work next to the engine: idle OpenMP pools that are larger slow down every step
on a CPU, by a sixth at 256x256.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

# Read at import: any thread changes the default of threads that start later.
ALL = torch.get_num_threads()


def use_cpu_threads(count: int) -> None:
    """Set the number for the current thread; other threads do not change it afterwards."""
    # Without this call, the first operation would replace the number by what another thread set
    # last: ``lazy_init_num_threads`` in aten/src/ATen/Parallel.h.
    torch.get_num_threads()
    torch.set_num_threads(count)


def pool(workers: int, name: str) -> ThreadPoolExecutor:
    """Threads that each use one CPU thread."""
    return ThreadPoolExecutor(workers, name, initializer=use_cpu_threads, initargs=(1,))
