"""Checkpoints and engines for folders that the downloader did not publish."""

from __future__ import annotations

from pathlib import Path

from modelstore import Marker, PartEntry
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine import Engine
from predictor.loading.engine import Learned, open_engine
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings


def unpublished(folder: Path, *parts: PartEntry) -> Checkpoint:
    """Return a checkpoint of the folder whose marker lists no files."""
    return Checkpoint(folder, Marker("any", "any", "r1", None, "", (), parts=parts))


def measured_engine(pipeline: DiffusersPipeline, settings: Settings) -> Engine:
    """Return the engine of a pipeline, which has not learned anything yet."""
    return open_engine(pipeline, Path("any"), settings, Learned())
