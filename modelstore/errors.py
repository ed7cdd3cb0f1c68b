"""What can be wrong with a model store.

ModelStoreError
├── InvalidNameError      a model name that is no plain folder name
└── IncompleteModelError  a folder that the downloader did not finish
"""


class ModelStoreError(Exception):
    """Base of every error of this package."""


class InvalidNameError(ModelStoreError):
    """The model name could leave the store or hide in it."""


class IncompleteModelError(ModelStoreError):
    """The folder has no marker, or does not hold what its marker lists."""
