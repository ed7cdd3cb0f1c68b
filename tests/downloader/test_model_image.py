"""The folder of a download as the contents of an image, in the steps of docs/downloads.md."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from modelstore import Marker, ModelStore
from tests.downloader.pipeline_files import whole_repository
from tests.downloader.volume import download, write_files

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "downloads.md"


def test_a_copy_of_the_target_is_a_volume_with_the_model(tmp_path: Path, target: Path) -> None:
    download(write_files(tmp_path / "source", whole_repository()), target)
    # COPY keeps links, as this does.
    image = Path(shutil.copytree(target, tmp_path / "image" / "models", symlinks=True))
    shutil.rmtree(target)

    model = ModelStore(image).model("sd")

    assert not model.readlink().is_absolute()
    Marker.read(model).check_sizes(model)


def test_the_document_copies_the_folder_that_the_predictor_mounts() -> None:
    section = DOCUMENT.read_text("utf-8").partition("### An image with models")[2]
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", section, re.DOTALL)
    assert dockerfile.splitlines() == ["FROM scratch", "COPY --chown=65532:65532 models /models"]
