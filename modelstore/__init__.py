"""The contract on disk between the downloader and the predictor; standard library only.

The downloader publishes a model folder, the predictor opens it, and neither imports the other:
``layout`` defines the paths, ``marker`` what makes a folder complete.
"""

from modelstore.errors import IncompleteModelError, ModelStoreError, UnpublishedModelError
from modelstore.layout import MARKER_NAME, ModelStore
from modelstore.marker import FileEntry, Marker, PartEntry

__all__ = [
    "MARKER_NAME",
    "FileEntry",
    "IncompleteModelError",
    "Marker",
    "ModelStore",
    "ModelStoreError",
    "PartEntry",
    "UnpublishedModelError",
]
