"""Prompts that were encoded before: kept up to a bound in bytes, the least recently used go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictor.engine.seam import Conditioning

# SDXL: 0.3 MiB a prompt in half precision.
MAX_BYTES = 128 * 2**20

# The negative prompt of nearly every request.
_PINNED = ""


class EmbeddingCache:
    """What ``encode`` made of each prompt; new ones are encoded together in one call."""

    def __init__(
        self, encode: Callable[[Sequence[str]], list[Conditioning]], max_bytes: int = MAX_BYTES
    ) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, Conditioning] = OrderedDict()
        self._pinned = encode([_PINNED])[0]

    def get(self, prompts: Iterable[str]) -> dict[str, Conditioning]:
        """The encoding of each prompt."""
        wanted = dict.fromkeys(prompts)
        new = [prompt for prompt in wanted if prompt != _PINNED and prompt not in self._entries]
        for prompt, conditioning in zip(new, self._encode(new) if new else [], strict=True):
            self._entries[prompt] = conditioning
            self._bytes += _size(conditioning)
        found = {prompt: self._look_up(prompt) for prompt in wanted}
        self._evict()
        return found

    def _look_up(self, prompt: str) -> Conditioning:
        if prompt == _PINNED:
            return self._pinned
        self._entries.move_to_end(prompt)
        return self._entries[prompt]

    def _evict(self) -> None:
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(conditioning: Conditioning) -> int:
    return sum(tensor.nbytes for tensor in conditioning)
