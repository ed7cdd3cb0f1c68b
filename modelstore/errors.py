"""Errors of a model store.

ModelStoreError
├── InvalidNameError         a model name that is not a valid folder name
└── IncompleteModelError     a folder that the downloader did not complete
    └── UnpublishedModelError  a pipeline that the downloader did not put there
"""


class ModelStoreError(Exception):
    """Base of every error of this package."""


class InvalidNameError(ModelStoreError):
    """The model name could lead out of the store or be hidden in it."""


class IncompleteModelError(ModelStoreError):
    """The folder has no marker, or does not match its marker."""


class UnpublishedModelError(IncompleteModelError):
    """The folder has a pipeline but no marker: something other than the downloader wrote it."""
