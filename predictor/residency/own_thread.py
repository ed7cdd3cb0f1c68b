"""Long work off the event loop, in a thread that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


async def in_own_thread(work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """What ``work`` returns or raises; whoever gives up waiting leaves it running.

    The thread must not outlive its work: OpenMP counts its idle pool of threads as busy, and on a
    CPU the engine's own steps then take twice as long.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)
    finally:
        thread.shutdown(wait=False)
