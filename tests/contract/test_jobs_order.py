"""The modules of the jobs program import one way, in the order of docs/architecture.md."""

from __future__ import annotations

from pathlib import Path

from tests.contract.test_imports import imports_of

PACKAGE = Path(__file__).resolve().parent.parent.parent / "jobs"
# Each unit imports only from the units before it.
ORDER = (
    *("errors", "strict_json", "webhook_signature", "webhook_target", "settings", "api_keys"),
    *("job", "requests", "storage", "bucket", "upload", "call_errors", "predictor_client"),
    *("attempt", "worker", "api", "webhook_client", "webhook_sender", "server", "__main__"),
)


def test_every_unit_has_its_place() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert found - {"__init__", "__pycache__"} == set(ORDER)


def test_no_unit_imports_a_later_one() -> None:
    units = {
        (module.split(".")[1], other.split(".")[1])
        for module, imported in imports_of("jobs").items()
        for other in imported
        if module != "jobs"
    }

    assert units
    assert [pair for pair in units if ORDER.index(pair[1]) > ORDER.index(pair[0])] == []


def test_the_architecture_document_has_the_order() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("\n## The jobs program")[2].partition("\n## ")[0]
    documented = section.partition("in this order:")[2].partition(".\n")[0]

    assert [name.strip("`\n ") for name in documented.split(",")] == list(ORDER)
