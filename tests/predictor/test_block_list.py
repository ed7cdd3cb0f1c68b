"""The block list: terms in any spelling, and a file that changes while in use."""

from __future__ import annotations

import logging
from contextvars import Context
from pathlib import Path

import pytest

from predictor import reloaded_file
from predictor.errors import ModelLoadError
from predictor.metrics import BLOCK_LIST_FAILURES
from predictor.request_context import RequestContext, current_request, enter_request
from predictor.safety.block_list import BlockList, parse

LIST = """\
# terms that no prompt may contain
gore

  Red Star
café
裸体
เปลือย
"""


def failures() -> float:
    return BLOCK_LIST_FAILURES._value.get()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "terms.txt"
    path.write_text(LIST, "utf-8")
    return path


@pytest.fixture
def listed(file: Path, monkeypatch: pytest.MonkeyPatch) -> BlockList:
    """A block list that rereads its file on every use."""
    monkeypatch.setattr(reloaded_file, "_SECONDS_BETWEEN_READS", 0.0)
    return BlockList("block", file)


@pytest.mark.parametrize(
    "prompt",
    [
        "gore",
        "much GORE, oil on canvas",
        "gore.",
        "(gore:1.3)",
        "a_gore_scene",
        "\uff47\uff4f\uff52\uff45",  # full width
        "\U0001d420\U0001d428\U0001d42b\U0001d41e",  # mathematical bold
        "go\u200bre",  # zero-width space
        "go\u00adre",  # soft hyphen
        "g\u2060o\ufeffr\u202ee",  # word joiner, byte order mark, direction
        "go\u3164re",  # invisible letter
        "go\ufe0fre",  # variation selector
        "g\u0336o\u0336r\u0336e\u0336",  # struck through
        "g\u00f6re",
        "go\u0308re",
        "g o r e",
        "g.o.r.e",
        "make it g-o-r-e now",
        "a g o r e",
        "a red star",
        "a red\n star",
        "red-star",
        "R\u00e9d \u2009 ST\u00c4R",
        "cafe",
        "caf\u00e9",
        "cafe\u0301",
        "\u4e00\u4e2a\u88f8\u4f53\u5973\u4eba",
        "\u0e20\u0e32\u0e1e\u0e40\u0e1b\u0e25\u0e37\u0e2d\u0e22\u0e2a\u0e27\u0e22",
    ],
)
def test_a_term_is_found_in_any_spelling(listed: BlockList, prompt: str) -> None:
    assert listed.fires_at(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red circle on a blue background",
        "forego",
        "gorethink",
        "categories",
        "red stars",
        "red circle, white star",
        "star red",
        "go re",
        "a b c",
        "",
        "\u4f53\u88f8",
    ],
)
def test_other_words_do_not_match(listed: BlockList, prompt: str) -> None:
    assert not listed.fires_at(prompt)


@pytest.mark.parametrize(
    ("term", "other"),
    [("\u092e\u0932", "\u092e\u0942\u0932"), ("\u304b\u304d", "\u304c\u304d")],
)
def test_marks_that_form_another_letter_matter(term: str, other: str) -> None:
    terms = parse(term.encode())

    assert terms.are_in(term)
    assert not terms.are_in(other)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "contains no terms"),
        (b"# nothing\n\n", "contains no terms"),
        (b"gore\n!!!\n", "line 2 has no letters or digits"),
        ("gore\n\u200b\u0301\n".encode(), "line 2 has no letters or digits"),
        (b"gore\n\xff\xfe", "is not valid UTF-8 at byte 5"),
    ],
)
def test_an_invalid_file_stops_startup(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)

    with pytest.raises(ModelLoadError, match=reason):
        BlockList("block", file)


@pytest.mark.parametrize("missing", [True, False])
def test_an_unreadable_file_stops_startup(tmp_path: Path, missing: bool) -> None:
    path = tmp_path / "terms.txt"
    if not missing:
        path.mkdir()

    with pytest.raises(ModelLoadError, match=r"block_list_file .*terms.txt: (No such|Is a)"):
        BlockList("block", path)


def test_a_byte_order_mark_is_not_part_of_a_term() -> None:
    assert parse(b"\xef\xbb\xbf# comment\r\ngore\r\n").terms == {("gore",)}


def test_a_change_applies(listed: BlockList, file: Path) -> None:
    file.write_text("violence", "utf-8")

    assert listed.fires_at("violence")
    assert not listed.fires_at("gore")


def test_it_is_read_at_most_once_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(reloaded_file.time, "monotonic", lambda: now)
    listed = BlockList("block", file)
    file.write_text("violence", "utf-8")

    now = 100.9
    before = listed.fires_at("violence")
    now = 101.0

    assert not before
    assert listed.fires_at("violence")


def test_a_change_is_not_logged_as_part_of_the_request_that_notices_it(
    listed: BlockList, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "predictor")
    seen: list[str] = []
    note = RequestIdNote(seen)
    logging.getLogger("predictor.reloaded_file").addFilter(note)

    def notice() -> None:
        enter_request(RequestContext("of-a-request"))
        listed.fires_at("violence")

    file.write_text("violence", "utf-8")
    try:
        Context().run(notice)
        file.unlink()
        Context().run(notice)
    finally:
        logging.getLogger("predictor.reloaded_file").removeFilter(note)

    assert len(caplog.records) == 2
    assert seen == ["", ""]


class RequestIdNote(logging.Filter):
    """Notes the identifier of the request in which each line is logged."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def filter(self, record: logging.LogRecord) -> bool:
        self._seen.append(current_request().request_id)
        return True


def test_a_config_maps_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloaded_file, "_SECONDS_BETWEEN_READS", 0.0)
    for version, term in (("..1", "gore"), ("..2", "bomb")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "terms.txt").write_text(term, "utf-8")
    data = tmp_path / "..data"
    data.symlink_to("..1")
    (tmp_path / "terms.txt").symlink_to("..data/terms.txt")
    listed = BlockList("block", tmp_path / "terms.txt")

    assert listed.fires_at("gore")
    # As the kubelet does it: a new link, renamed over the old one.
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(data)

    assert listed.fires_at("bomb")
    assert not listed.fires_at("gore")


@pytest.mark.parametrize("content", [None, b"", b"gore\n\xff", b"# gone\n", b"--\n"])
def test_an_invalid_change_leaves_the_last_good_list_in_force(
    listed: BlockList, file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "predictor")
    before = failures()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    assert all(listed.fires_at("gore") for _ in range(3))
    assert failures() == before + 3
    assert [
        record.message.count("the last good list stays in force") for record in caplog.records
    ] == [1]

    file.write_text("violence", "utf-8")
    assert listed.fires_at("violence")
    assert not listed.fires_at("gore")


def test_a_long_prompt_of_single_letters_is_checked_quickly(tmp_path: Path) -> None:
    terms = parse("\n".join(["x" * 60, *(f"term{number}" for number in range(2000))]).encode())

    assert not terms.are_in("y " * 2048)
    assert terms.are_in("y " * 2000 + "x " * 60)
