"""The demo model's tokenizer: CLIP's byte-pair encoding over a few hundred entries."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

# CLIP's window is 77. The demo's prompts have at most 10 words, and each token costs time per step.
WINDOW = 32


def build_tokenizer(prompts: Iterable[str]) -> CLIPTokenizer:
    """Learn merges from ``prompts``; any other text falls back to bytes, as in CLIP."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges(prompts, alphabet)
    pieces = alphabet + [f"{byte}</w>" for byte in alphabet] + ["".join(pair) for pair in merges]
    entries = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=WINDOW)


def _learn_merges(prompts: Iterable[str], alphabet: list[str]) -> list[tuple[str, str]]:
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(
        prompts,
        trainers.BpeTrainer(
            vocab_size=2048, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=alphabet
        ),
    )
    learned = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in learned]
