"""Loads a published folder into a warm engine: the entry point of this package."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine import Engine
from predictor.errors import InvalidRequestError, ModelLoadError
from predictor.loading import memory
from predictor.loading.cache_folder import ensure_cache_folder
from predictor.loading.postponed_imports import import_lean
from predictor.logs import adopt_library_loggers
from predictor.requests import Limits, ModelProfile
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.loading.engine import Learned
    from predictor.pipelines.whole import DiffusersPipeline

    OpenEngine = Callable[[DiffusersPipeline, Path, Settings, Learned], Engine]


# What ``load`` imports; torch and diffusers come with them.
_PACKAGES = (
    "predictor.loading.engine",
    "predictor.loading.pipeline",
    "predictor.engine.composite",
    "predictor.safety.layers",
    "predictor.safety.review",
)


class Loaded(NamedTuple):
    """A warm engine, the profile of its model, and the bytes of its weights and CUDA graphs."""

    engine: Engine
    profile: ModelProfile
    memory_bytes: int


def load(
    checkpoint: Checkpoint,
    settings: Settings,
    learned: Learned,
    open_engine: OpenEngine | None = None,
    on_read: Callable[[], object] = lambda: None,
) -> Loaded:
    """Load the checkpoint into an engine, which takes seconds to minutes; blocks the caller.

    ``open_engine`` replaces ``predictor.loading.engine.open_engine``. ``on_read`` is called once
    the weights are in memory.

    Raises:
        ModelLoadError: the checkpoint cannot be served with these settings, or memory ran out.
    """
    try:
        return _load(checkpoint, settings, learned, open_engine, on_read)
    except Exception as error:
        if shortage := memory.shortage(error):
            name = checkpoint.marker.name
            raise ModelLoadError(f"model {name!r} does not load: {shortage}") from error
        raise


def _load(
    checkpoint: Checkpoint,
    settings: Settings,
    learned: Learned,
    open_engine: OpenEngine | None,
    on_read: Callable[[], object],
) -> Loaded:
    # torch and diffusers take seconds to import, and the port opens before that.
    from predictor.engine.composite import CompositeEngine
    from predictor.loading import engine as engines
    from predictor.loading.model_cache import open_cache
    from predictor.loading.pipeline import load_pipeline
    from predictor.safety.layers import open_layers
    from predictor.safety.review import ReviewedEngine

    adopt_library_loggers()
    cache = open_cache(settings.cache_dir, checkpoint.marker, settings)
    if cache is not None:
        learned.use(checkpoint.folder, cache)
    pipeline = load_pipeline(checkpoint, settings)
    try:
        Limits(settings, pipeline.profile).check(pipeline.profile.default_request("any"))
    except InvalidRequestError as error:
        raise ModelLoadError(
            f"the settings do not allow the model's own defaults: {error}"
        ) from None
    layers = open_layers(checkpoint, settings)
    on_read()
    open_engine = open_engine or engines.open_engine
    engine = CompositeEngine(open_engine(pipeline, checkpoint.folder, settings, learned))
    if cache is not None:
        threading.Thread(target=cache.publish, name="cache", daemon=True).start()
    size = memory.tensor_bytes(pipeline.diffusers) + pipeline.graphs.memory_bytes
    return Loaded(ReviewedEngine(engine, layers), pipeline.profile, size)


class ModelLoader:
    """A ``Loader`` with the server's settings; a server of one model has no memory bound."""

    def __init__(
        self, settings: Settings, *, is_bounded: bool, open_engine: OpenEngine | None = None
    ) -> None:
        self._settings = settings
        self._is_bounded = is_bounded
        self._open_engine = open_engine
        self._learned: Learned | None = None

    def prepare(self) -> None:
        """See ``Loader.prepare``."""
        ensure_cache_folder()
        import_lean(*_PACKAGES, compiles=self._settings.compile)
        from predictor.loading.engine import Learned

        self._learned = Learned()

    def budget_bytes(self) -> float:
        """See ``Loader.budget_bytes``."""
        return memory.budget_bytes(self._settings) if self._is_bounded else math.inf

    def read(self, folder: Path) -> Checkpoint:
        """See ``Loader.read``."""
        return Checkpoint.read(folder)

    def expected_bytes(self, checkpoint: Checkpoint) -> int:
        """See ``Loader.expected_bytes``."""
        return memory.expected_bytes(checkpoint, self._settings) if self._is_bounded else 0

    def load(self, checkpoint: Checkpoint, on_read: Callable[[], object]) -> Loaded:
        """See ``Loader.load``."""
        assert self._learned is not None
        return load(checkpoint, self._settings, self._learned, self._open_engine, on_read)

    def release(self) -> None:
        """See ``Loader.release``."""
        memory.release_memory()
