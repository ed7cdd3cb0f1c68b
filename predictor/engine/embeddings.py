"""An LRU cache of encoded prompts, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning

# In half precision, an SDXL prompt takes 0.3 MiB and a FLUX prompt of 512 tokens 4 MiB.
MAX_BYTES = 128 * 2**20


class Prompt(NamedTuple):
    """A prompt and the encoders for it; see ``Denoising.encoders``."""

    text: str
    encoders: Hashable = ()


# The negative prompt of nearly every request.
_PINNED = Prompt("")


class EmbeddingCache:
    """Caches the result of ``encode``, which gets all new prompts of the same encoders at once."""

    def __init__(
        self,
        encode: Callable[[Sequence[str], Hashable], list[Conditioning]],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[Prompt, Conditioning] = OrderedDict()
        self._pinned = encode([_PINNED.text], _PINNED.encoders)[0]

    def get(self, prompts: Iterable[Prompt]) -> dict[Prompt, Conditioning]:
        """The encoding of each prompt."""
        wanted = dict.fromkeys(prompts)
        new = [prompt for prompt in wanted if prompt != _PINNED and prompt not in self._entries]
        for encoders in dict.fromkeys(prompt.encoders for prompt in new):
            self._add([prompt for prompt in new if prompt.encoders == encoders], encoders)
        found = {prompt: self._look_up(prompt) for prompt in wanted}
        self._evict()
        return found

    def _add(self, prompts: list[Prompt], encoders: Hashable) -> None:
        encoded = self._encode([prompt.text for prompt in prompts], encoders)
        for prompt, conditioning in zip(prompts, encoded, strict=True):
            self._entries[prompt] = conditioning
            self._bytes += _size(conditioning)

    def _look_up(self, prompt: Prompt) -> Conditioning:
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
