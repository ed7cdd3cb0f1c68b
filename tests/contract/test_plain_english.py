"""The project's prose avoids phrases that a native writer would not use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SUFFIXES = {
    *("", ".css", ".downloader", ".html", ".jobs", ".js", ".md", ".py", ".sh", ".toml", ".tpl"),
    *(".txt", ".yaml"),
}
PHRASES = re.compile(
    r"\b(?:nobody|anew|so many|(?:of|by) chance|under way|goes on|beside|mends?|mended"
    r"|at the moment|(?:is|are|was|were) (?:told|asked for|\w+ no more)"
    # "There is no X" and "X is no longer Y" are fine, unlike "X is no Y".
    r"|(?<!there )(?:is|are|was|were) no (?!longer\b|more than\b)[a-z]+)\b",
    re.IGNORECASE,
)
# Correct uses: a phrase with enough context to be unique.
ALLOWED = ("the answer is no",)


def odd_phrases(content: str) -> list[str]:
    """The odd phrases with their context; they may span lines or be part of a name."""
    text = re.sub(r"[\s_#]+", " ", content)
    for phrase in ALLOWED:
        text = text.replace(phrase, "")
    return [text[max(0, one.start() - 30) : one.end() + 30] for one in PHRASES.finditer(text)]


def test_the_prose_has_no_odd_phrases() -> None:
    command = ["git", "ls-files", ":!requirements", ":!LICENSE"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = {ROOT / name for name in listed.stdout.splitlines()} - {Path(__file__)}
    texts = {path: path.read_text("utf-8") for path in paths if path.suffix in SUFFIXES}

    assert len(texts) > 400
    assert {path.name: odd for path, text in texts.items() if (odd := odd_phrases(text))} == {}


@pytest.mark.parametrize("text", ["the body is no\n# JSON", "weights_of_chance", "Nobody reads it"])
def test_an_odd_phrase_is_found(text: str) -> None:
    assert odd_phrases(text)


@pytest.mark.parametrize("text", ["there is no cluster", "it is no longer published"])
def test_a_usual_phrase_is_not_found(text: str) -> None:
    assert odd_phrases(text) == []
