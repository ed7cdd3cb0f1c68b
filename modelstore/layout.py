"""The layout of the shared volume.

::

    <root>/                         the volume, mounted by the Job and the predictor
    ├── sdxl -> .revisions/sdxl/…   the served model: a relative link, switched by one rename
    ├── .revisions/
    │   └── sdxl/
    │       ├── 462165984030-1f0c9a2e/   a revision: complete, changed only by repairs
    │       │   ├── .modelstore.json     the marker: the list of files, written last
    │       │   ├── generation_defaults.json  optional: defaults of request parameters
    │       │   ├── model_index.json
    │       │   ├── unet/ vae/ …
    │       │   ├── refiner/             optional: a second pipeline
    │       │   ├── adapters/pixel-art/  optional: LoRA files, a folder for each
    │       │   ├── controlnets/canny/   optional: ControlNets, a folder for each
    │       │   ├── embeddings/          optional: textual inversion, a safetensors file for each
    │       │   └── safety_classifier/   optional
    │       └── .previous -> …           the previous revision, for a rollback
    ├── .staging/
    │   ├── sdxl/<revision>.<owner>/     a download in progress; the next run continues it
    │   └── .sdxl.lease/<owner>          held by the one download in progress
    └── .trash/                          what is being deleted

On a volume from before there were revisions, a plain folder stands in place of the link. Readers
need not distinguish the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelstore.errors import InvalidNameError

MARKER_NAME = ".modelstore.json"
GENERATION_DEFAULTS_NAME = "generation_defaults.json"
MODEL_INDEX_NAME = "model_index.json"
ADAPTERS_FOLDER_NAME = "adapters"
CONTROLNETS_FOLDER_NAME = "controlnets"
EMBEDDINGS_FOLDER_NAME = "embeddings"
REFINER_FOLDER_NAME = "refiner"
CLASSIFIER_FOLDER_NAME = "safety_classifier"
# Components that diffusers' pipelines accept as None: a folder without one is complete.
OPTIONAL_COMPONENTS = ("feature_extractor", "image_encoder", "safety_checker")
# SD3 also works without T5, at the price of worse text in pictures.
SKIPPABLE_COMPONENTS = (*OPTIONAL_COMPONENTS, "text_encoder_3", "tokenizer_3")
# The name that diffusers and peft save a LoRA under.
ADAPTER_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"

# The name becomes a folder, a KServe model name and a URL segment.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ModelStore:
    """A volume that holds published models, each under its own name."""

    root: Path

    def model(self, name: str) -> Path:
        """The path that readers open; it appears complete or not at all."""
        return self.root / check_name(name)

    def revisions(self, name: str) -> Path:
        """The folder of all revisions of ``name``; no model name starts with a dot."""
        return self.root / ".revisions" / check_name(name)

    def revision(self, name: str, revision: str) -> Path:
        """The folder of one revision."""
        return self.revisions(name) / _checked_revision(revision)

    def previous(self, name: str) -> Path:
        """The link to the revision that was served before the current one."""
        return self.revisions(name) / ".previous"

    def link_target(self, name: str, revision: str) -> Path:
        """The target of the link of ``name``; relative, as each pod mounts the volume elsewhere."""
        return self.revision(name, revision).relative_to(self.root)

    def active(self, name: str) -> str | None:
        """The served revision; None if there is none, or only a plain folder."""
        try:
            target = self.model(name).readlink()
        except OSError:
            return None
        return target.name if target.parent == self.revisions(name).relative_to(self.root) else None

    def staging(self, name: str) -> Path:
        """The folder of the downloads of ``name``; on the same file system as the revisions."""
        return self.root / ".staging" / check_name(name)

    def lease(self, name: str) -> Path:
        """The folder that names the one download of ``name`` in progress."""
        return self.root / ".staging" / f".{check_name(name)}.lease"

    def scratch(self, name: str, purpose: str) -> Path:
        """A short-lived file of the owner of the lease; a kill may leave it behind."""
        return self.root / ".staging" / f".{check_name(name)}.{purpose}"

    @property
    def trash(self) -> Path:
        """Where a rename moves a folder before its files are deleted."""
        return self.root / ".trash"

    def names(self) -> tuple[str, ...]:
        """Every name that has a model, a revision or a download, sorted."""
        folders = (self.root, self.root / ".revisions", self.root / ".staging")
        paths = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
        found = {path.name for path in paths if path.is_dir() or path.is_symlink()}
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))


def adapter_weights(paths: Iterable[str]) -> list[str]:
    """The LoRA file of an adapter: the one of diffusers' own name, else all safetensors files.

    More than one path, or none, means that there is no file to choose.
    """
    weights = sorted(path for path in paths if path.endswith(".safetensors"))
    return [ADAPTER_WEIGHTS_NAME] if ADAPTER_WEIGHTS_NAME in weights else weights


def _checked_revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision):
        raise InvalidNameError(f"{revision!r} is not a valid revision name")
    return revision


def check_name(name: str) -> str:
    """The name, if it is valid as a folder, a KServe model name and a URL segment.

    Raises:
        InvalidNameError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"model name {name!r}: use 1 to 63 letters, digits, '.', '_' or '-', "
            "with a letter or digit at both ends"
        )
    return name
