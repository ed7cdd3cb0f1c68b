"""The predictor resolves the link once, so a switch while it loads never mixes revisions."""

from __future__ import annotations

from pathlib import Path

from modelstore import ModelStore
from predictor.settings import Settings


def test_the_link_is_followed_when_the_settings_are_read(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for revision in ("1-a", "2-b"):
        store.revision("sd", revision).mkdir(parents=True)
    store.model("sd").symlink_to(store.link_target("sd", "1-a"))

    settings = Settings(model_dir=store.model("sd"))
    store.model("sd").unlink()
    store.model("sd").symlink_to(store.link_target("sd", "2-b"))

    assert settings.model_dir == store.revision("sd", "1-a").resolve()


def test_plain_and_missing_folders_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for name in ("plain", "missing"):
        assert Settings(model_dir=tmp_path / name).model_dir == (tmp_path / name).resolve()
