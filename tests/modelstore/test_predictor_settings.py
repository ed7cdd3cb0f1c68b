"""Each load resolves the link once, so a switch meanwhile never mixes revisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from modelstore import MARKER_NAME, ModelStore
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.edge.repository import OneModel, open_repository
from predictor.loading.loader import Loaded, ModelLoader
from predictor.settings import Settings


def publish(store: ModelStore, revision: str) -> None:
    """The last steps of a download, without the weights."""
    store.revision("sd", revision).mkdir(parents=True)
    (store.revision("sd", revision) / MARKER_NAME).touch()
    link = store.model("sd")
    link.unlink(missing_ok=True)
    link.symlink_to(store.link_target("sd", revision))


def test_the_link_is_followed_once_when_the_load_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path)
    publish(store, "1-a")
    settings = Settings(model_dir=store.model("sd"))
    repository = open_repository("sd", settings)
    publish(store, "2-b")
    folders: list[Path] = []

    def read(loader: ModelLoader, folder: Path) -> Checkpoint:
        publish(store, "3-c")
        return Checkpoint(folder, None)  # type: ignore[arg-type]

    def load(loader: ModelLoader, checkpoint: Checkpoint, on_read: Callable[[], object]) -> Loaded:
        folders.append(checkpoint.folder)
        return Loaded(None, None, 0)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelLoader, "read", read)
    monkeypatch.setattr(ModelLoader, "load", load)
    monkeypatch.setattr(
        "predictor.residency.residency.note_success",
        lambda resident, checkpoint, loaded, *_: setattr(resident, "loaded", loaded),
    )
    asyncio.run(repository.residency.preload(["sd"]))

    assert isinstance(repository, OneModel)
    assert folders == [store.revision("sd", "2-b").resolve()]


def test_the_settings_keep_the_link_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ModelStore(tmp_path), "1-a")
    monkeypatch.chdir(tmp_path)

    assert Settings(model_dir=Path("sd")).model_dir == tmp_path / "sd"


def test_plain_and_missing_folders_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for name in ("plain", "missing"):
        assert Settings(model_dir=tmp_path / name).model_dir == (tmp_path / name).resolve()
