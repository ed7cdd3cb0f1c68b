"""KServe's model registry: the model of one folder, all models of a volume, or none yet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, NoReturn

from kserve import ModelRepository
from kserve.errors import ModelNotFound, ModelNotReady

from modelstore import MARKER_NAME, ModelStore
from predictor.edge.kserve_internals import OpenRepositoryExtension
from predictor.edge.model import DiffusionModel
from predictor.errors import ModelLoadError, ModelUnavailableError
from predictor.loading.loader import ModelLoader
from predictor.residency import Residency
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.loading.loader import OpenEngine

logger = logging.getLogger(__name__)


_DOWNLOAD_RETRY_SECONDS = 30.0


class AwaitedModels(ModelRepository):  # type: ignore[misc]  # kserve ships no types
    """No models yet: every request fails because the download is not complete."""

    loads_on_demand = False

    async def look_for(self, name: str) -> NoReturn:
        """Reject the request.

        Raises:
            ModelUnavailableError: always.
        """
        raise ModelUnavailableError(
            f"model {name!r} is not downloaded yet; the server waits for its download",
            _DOWNLOAD_RETRY_SECONDS,
        )

    async def refresh(self) -> None:
        """Do nothing: the server itself checks the volume."""


class OneModel(ModelRepository):  # type: ignore[misc]
    """A published folder, loaded at startup and kept: callers cannot unload it."""

    loads_on_demand = False

    def __init__(self, name: str, settings: Settings, residency: Residency) -> None:
        super().__init__()
        if settings.preload_names:
            raise ModelLoadError(
                f"preload={settings.preload}, but model_dir is a single model's folder, which is "
                "always loaded: leave preload empty, or set model_dir to the root of the volume"
            )
        self.residency = residency
        self.residency.add(name, settings.model_dir)
        self.update(DiffusionModel(name, settings, self.residency))
        self.preload_names: tuple[str, ...] = (name,)

    async def look_for(self, name: str) -> None:
        """Do nothing: the model is known."""

    async def refresh(self) -> None:
        """Do nothing: the model stays."""

    async def load(self, name: str) -> None:
        """Check that it is loaded; the load begins with the process."""
        if not self.residency[name].is_open:
            raise ModelNotReady(name)

    async def unload(self, name: str) -> None:
        """Not supported."""
        raise NotImplementedError("a server of a single model does not unload it")


class PublishedModels(ModelRepository):  # type: ignore[misc]
    """All models of a volume, as the downloader publishes and removes them."""

    loads_on_demand = True

    def __init__(self, settings: Settings, residency: Residency) -> None:
        super().__init__()
        self._settings = settings
        self._store = ModelStore(settings.model_dir)
        self.residency = residency
        self.preload_names = settings.preload_names
        self._refreshing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._add(published_names(self._store))
        for name in self.preload_names:
            if name not in self.models:
                raise ModelLoadError(
                    f"preload: {name!r} is not on the volume; published: {', '.join(self.models)}"
                )

    async def look_for(self, name: str) -> None:
        """If the name is unknown, look for it on the volume.

        Raises:
            ModelUnavailableError: the volume cannot be read.
        """
        if name not in self.models:
            await self.refresh()

    async def refresh(self) -> None:
        """Check the volume for added and removed names; keep all if it cannot be read.

        Raises:
            ModelUnavailableError: the volume cannot be read.
        """
        # One at a time: an older listing must not overwrite a newer one.
        async with self._refreshing:
            try:
                names = await asyncio.to_thread(self._list)
            except OSError as error:
                logger.warning("the volume of models cannot be read: %s", error)
                raise ModelUnavailableError(
                    "the volume of models cannot be read; try again later"
                ) from None
            self._add(names)
            for name in self.models.keys() - set(names):
                del self.models[name]
                leaving = asyncio.create_task(self._let_go(name))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def load(self, name: str) -> None:
        """Load the model; reload it if a new revision has been published."""
        await self.residency.load(name)

    async def unload(self, name: str) -> None:
        """Unload the model once it is idle; its next request loads it again."""
        await self.residency.unload(name)

    def _list(self) -> tuple[str, ...]:
        # A volume whose root is missing is not an empty volume.
        self._store.root.stat()
        return published_names(self._store)

    async def _let_go(self, name: str) -> None:
        logger.info("model %s is no longer published", name)
        # A model that stays busy is unloaded later, when its memory is needed.
        with contextlib.suppress(ModelUnavailableError):
            await self.residency.unload(name)

    def _add(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.models:
                self.residency.add(name, self._store.model(name))
                self.update(DiffusionModel(name, self._settings, self.residency))


class RepositoryExtension(OpenRepositoryExtension):
    """The Open Inference Protocol's model repository extension, with its own state names.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
    """

    async def index(self, filter_ready: bool | None = False) -> list[dict[str, str]]:
        """Each model's name, state, reason and, if loaded, revision."""
        # If the volume cannot be read, list the known models.
        with contextlib.suppress(ModelUnavailableError):
            await self.model_registry.refresh()
        entries = [self._entry(name) for name in sorted(self.model_registry.get_models())]
        return [entry for entry in entries if not filter_ready or entry["state"] == "READY"]

    async def load(self, model_name: str) -> None:
        """Load a model and wait until it is loaded."""
        await self._look_for(model_name)
        await self.model_registry.load(model_name)

    async def unload(self, model_name: str) -> None:
        """Unload a model and wait until it is unloaded."""
        await self._look_for(model_name)
        await self.model_registry.unload(model_name)

    async def _look_for(self, name: str) -> None:
        await self.model_registry.look_for(name)
        if self.model_registry.get_model(name) is None:
            raise ModelNotFound(name)

    def _entry(self, name: str) -> dict[str, str]:
        resident = self.model_registry.residency[name]
        entry = {"name": name, "state": resident.state, "reason": resident.reason}
        if resident.loaded is not None:
            entry["version"] = resident.loaded.profile.revision
        return entry


def open_repository(
    model_name: str, settings: Settings, open_engine: OpenEngine | None = None
) -> OneModel | PublishedModels:
    """The model of a folder with a marker, or all published models of a volume's root.

    See ``predictor.loading.loader.load`` for ``open_engine``.

    Raises:
        ModelLoadError: the settings contradict the contents of the folder, or it cannot be read.
    """
    try:
        return _open(model_name, settings, open_engine)
    except OSError as error:
        raise ModelLoadError(f"the volume of models cannot be read: {error.strerror}") from None


def _open(
    model_name: str, settings: Settings, open_engine: OpenEngine | None
) -> OneModel | PublishedModels:
    folder = settings.model_dir
    is_volume = not (folder / MARKER_NAME).exists() and bool(published_names(ModelStore(folder)))
    residency = Residency(
        ModelLoader(settings, is_bounded=is_volume, open_engine=open_engine),
        max_wait_seconds=settings.max_load_wait_seconds,
        max_waiters=settings.max_queue_length,
    )
    if is_volume:
        return PublishedModels(settings, residency)
    return OneModel(model_name, settings, residency)


def is_published(settings: Settings) -> bool:
    """Whether ``model_dir`` contains a model, and all models that ``preload`` names."""
    if (settings.model_dir / MARKER_NAME).is_file():
        return True
    names = set(published_names(ModelStore(settings.model_dir)))
    return bool(names) and names.issuperset(settings.preload_names)


def published_names(store: ModelStore) -> tuple[str, ...]:
    """The names of the models whose download is complete."""
    return tuple(name for name in store.names() if (store.model(name) / MARKER_NAME).is_file())
