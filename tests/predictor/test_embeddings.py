"""The cache of prompt embeddings: what is encoded, what is kept, what goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from predictor.engine.embeddings import EmbeddingCache

BYTES_EACH = 100


class Encoder:
    """Encodes a prompt as its length, in a hundred bytes."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, prompts: Sequence[str]) -> list[tuple[torch.Tensor, ...]]:
        self.calls.append(list(prompts))
        return [(torch.full((BYTES_EACH,), len(one), dtype=torch.uint8),) for one in prompts]


def test_new_prompts_are_encoded_together_and_known_ones_not_again() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder)

    found = cache.get(["a", "", "bb", "a"])
    cache.get(["bb", "ccc"])

    assert {prompt: int(one[0][0]) for prompt, one in found.items()} == {"a": 1, "": 0, "bb": 2}
    assert encoder.calls == [[""], ["a", "bb"], ["ccc"]]


def test_the_least_recently_used_goes_when_the_bytes_are_too_many() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder, max_bytes=2 * BYTES_EACH)
    for prompt in ("a", "b", "a", "c"):
        cache.get([prompt])
    encoder.calls.clear()

    cache.get(["a"])
    cache.get(["c"])
    cache.get(["b"])

    assert encoder.calls == [["b"]]


def test_the_empty_prompt_stays_and_more_than_fits_is_still_answered() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder, max_bytes=BYTES_EACH)

    found = cache.get(["a", "bb", "ccc", ""])
    encoder.calls.clear()
    cache.get([""])

    assert [int(one[0][0]) for one in found.values()] == [1, 2, 3, 0]
    assert encoder.calls == []
