"""The cache of prompt embeddings: what it encodes, keeps and evicts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch

from predictor.engine.embeddings import EmbeddingCache, Prompt

BYTES_EACH = 100


class Encoder:
    """Encodes a prompt as its length, in a hundred bytes."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(
        self, prompts: Sequence[str], encoders: Hashable = ()
    ) -> list[tuple[torch.Tensor, ...]]:
        self.calls.append(list(prompts))
        return [(torch.full((BYTES_EACH,), len(one), dtype=torch.uint8),) for one in prompts]


def prompts(texts: Iterable[str], encoders: Hashable = ()) -> list[Prompt]:
    return [Prompt(text, encoders) for text in texts]


def test_new_prompts_are_encoded_in_one_call_and_known_ones_not_again() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder)

    found = cache.get(prompts(["a", "", "bb", "a"]))
    cache.get(prompts(["bb", "ccc"]))

    assert {prompt.text: int(one[0][0]) for prompt, one in found.items()} == {
        "a": 1,
        "": 0,
        "bb": 2,
    }
    assert encoder.calls == [[""], ["a", "bb"], ["ccc"]]


def test_the_least_recently_used_prompt_is_evicted() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder, max_bytes=2 * BYTES_EACH)
    for prompt in ("a", "b", "a", "c"):
        cache.get(prompts([prompt]))
    encoder.calls.clear()

    cache.get(prompts("a"))
    cache.get(prompts("c"))
    cache.get(prompts("b"))

    assert encoder.calls == [["b"]]


def test_the_empty_prompt_is_never_evicted_and_an_oversized_batch_is_answered() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder, max_bytes=BYTES_EACH)

    found = cache.get(prompts(["a", "bb", "ccc", ""]))
    encoder.calls.clear()
    cache.get(prompts([""]))

    assert [int(one[0][0]) for one in found.values()] == [1, 2, 3, 0]
    assert encoder.calls == []


def test_each_encoder_encodes_the_same_text() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder)
    encoder.calls.clear()

    found = cache.get([*prompts(["a", "bb", ""]), *prompts(["a", ""], encoders="refiner")])

    assert len(found) == 5
    assert encoder.calls == [["a", "bb"], ["a", ""]]
