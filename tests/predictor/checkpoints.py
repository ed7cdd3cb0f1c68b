"""Checkpoints and engines over folders that no downloader published."""

from __future__ import annotations

from pathlib import Path

from modelstore import Marker, PartEntry
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine import Engine
from predictor.loading.engine import Measured, open_engine
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings


def unpublished(folder: Path, *parts: PartEntry) -> Checkpoint:
    """The folder under a marker that lists no files."""
    return Checkpoint(folder, Marker("any", "any", "r1", None, "", (), parts=parts))


def measured_engine(pipeline: DiffusersPipeline, settings: Settings) -> Engine:
    """The engine of a pipeline that was not measured before."""
    return open_engine(pipeline, Path("any"), settings, Measured())
