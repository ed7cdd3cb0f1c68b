"""Where things lie on the shared volume.

::

    <root>/                         the volume, mounted by the Job and the predictor
    ├── sdxl/                       a published model: complete, never written again
    │   ├── .modelstore.json        the marker: the list of files, written last
    │   ├── generation_defaults.json  optional: what a request may leave out
    │   ├── model_index.json
    │   └── unet/ vae/ …
    └── .staging/
        ├── sdxl/                   a download under way; left in place to be resumed
        ├── .sdxl.replaced/         the model that a newer one replaces, until that is in place
        └── .sdxl.lock              held by the one download under way
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelstore.errors import InvalidNameError

MARKER_NAME = ".modelstore.json"
GENERATION_DEFAULTS_NAME = "generation_defaults.json"
MODEL_INDEX_NAME = "model_index.json"

# The name becomes a folder, a KServe model name and a URL segment.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class ModelStore:
    """A volume that holds published models, each in a folder of its own name."""

    root: Path

    def model(self, name: str) -> Path:
        """The folder that readers open; it appears whole or not at all."""
        return self.root / _checked(name)

    def staging(self, name: str) -> Path:
        """The folder that the downloader fills; on the same file system as ``model``."""
        return self.root / ".staging" / _checked(name)

    def replaced(self, name: str) -> Path:
        """Where the older model waits for its deletion; no model's name starts with a dot."""
        return self.root / ".staging" / f".{_checked(name)}.replaced"

    def lock(self, name: str) -> Path:
        """The file that the one download of ``name`` holds locked."""
        return self.root / ".staging" / f".{_checked(name)}.lock"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"model name {name!r}: use 1 to 63 letters, digits, '.', '_' or '-', "
            "with a letter or digit at both ends"
        )
    return name
