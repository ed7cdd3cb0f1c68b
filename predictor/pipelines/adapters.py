"""LoRA adapters, loaded by diffusers on first use and active only for the requests that name them.

Loading takes seconds and memory, so the adapters are not loaded at startup. A file that does not
load fails only the requests that name it.
"""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from predictor.engine.faults import is_out_of_memory
from predictor.errors import GenerationFailedError
from predictor.pipelines.adapted_layers import AdaptedLayers
from predictor.requests import Adapter

logger = logging.getLogger(__name__)

# Above this, the least recently used adapters are unloaded. An SDXL LoRA takes 20 to 400 MiB.
MAX_BYTES = 2 * 2**30
# peft imports the first for the first adapter of a text encoder, which would be between two steps,
# and expects that the other is imported.
_LATE_IMPORTS = ("peft.utils.transformers_weight_conversion", "torch.distributed.tensor")


class Adapters:
    """The LoRAs of a pipeline; not thread-safe, call it from a single thread.

    ``files`` maps each name to its safetensors file.
    """

    def __init__(
        self, pipeline: Any, files: Mapping[str, Path] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self._pipeline = pipeline
        self._files = dict(files or {})
        if self._files and not hasattr(pipeline, "load_lora_weights"):
            logger.warning("%s does not support adapters; ignoring them", type(pipeline).__name__)
            self._files.clear()
        if self._files:
            for module in _LATE_IMPORTS:
                importlib.import_module(module)
        # peft rejects names with dots and names of module attributes. transformers looks for a name
        # anywhere in a key, so no name may be a prefix of another.
        self._peft_names = {name: f"adapter_{index}_" for index, name in enumerate(self._files)}
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[str, int] = OrderedDict()
        self._broken: set[str] = set()
        self._layers = {
            name: AdaptedLayers(part)
            for name, part in pipeline.components.items()
            if isinstance(part, torch.nn.Module)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a request may use."""
        return tuple(self._files)

    def load(self, adapters: Iterable[Adapter]) -> None:
        """Load these adapters; this may unload others.

        Raises:
            GenerationFailedError: an adapter does not load; the message names it.
        """
        wanted = [adapter.name for adapter in adapters]
        for name in wanted:
            if name not in self._loaded:
                self._load(name, wanted)
            self._loaded.move_to_end(name)

    def use(self, adapters: Sequence[Adapter], components: Container[str] | None = None) -> None:
        """Activate exactly these adapters on the given components, by default on all of them.

        Raises:
            GenerationFailedError: an adapter was unloaded and does not load again.
        """
        self.load(adapters)
        scales = {self._peft_names[adapter.name]: adapter.scale for adapter in adapters}
        for name, layers in self._layers.items():
            if components is None or name in components:
                layers.use(scales)

    def of(self, adapters: Iterable[Adapter], components: Container[str]) -> tuple[Adapter, ...]:
        """Return those of the loaded ``adapters`` that change any of the ``components``."""
        parts = [layers for name, layers in self._layers.items() if name in components]
        return tuple(
            adapter
            for adapter in adapters
            if any(self._peft_names[adapter.name] in part.adapters for part in parts)
        )

    def _load(self, name: str, wanted: Container[str]) -> None:
        if name in self._broken:
            raise _failure(name)
        began = time.perf_counter()
        try:
            size = self._files[name].stat().st_size
            self._make_room(size, wanted)
            self._load_or_leave(self._files[name], self._peft_names[name])
        except OSError as error:
            raise _failure(name) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # A retry would fail too, and would delay the steps of every request in flight.
            self._broken.add(name)
            raise _failure(name) from error
        self._loaded[name] = size
        logger.info("loaded adapter %r in %.1f s", name, time.perf_counter() - began)

    def _load_or_leave(self, file: Path, peft_name: str) -> None:
        with self._all_wrapped():
            try:
                self._load_by_diffusers(file, peft_name)
            except BaseException:
                self._pipeline.delete_adapters(peft_name)
                raise

    def _load_by_diffusers(self, file: Path, peft_name: str) -> None:
        check_adds_only(file, self._pipeline)
        self._pipeline.load_lora_weights(
            file.parent,
            weight_name=file.name,
            adapter_name=peft_name,
            use_safetensors=True,
            local_files_only=True,
        )
        # diffusers loads a file for another family as an adapter without layers.
        if not any(peft_name in names for names in self._pipeline.get_list_adapters().values()):
            raise ValueError(f"{file.name} has no layers for this model")

    def _make_room(self, size: int, wanted: Container[str]) -> None:
        for name in [name for name in self._loaded if name not in wanted]:
            if sum(self._loaded.values()) + size <= self._max_bytes:
                return
            with self._all_wrapped():
                self._pipeline.delete_adapters(self._peft_names[name])
            del self._loaded[name]
            logger.info("unloaded adapter %r", name)

    @contextmanager
    def _all_wrapped(self) -> Iterator[None]:
        """Expose the layers to diffusers, and create weights that any thread may use."""
        # Several adapters on one model are expected here.
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted", UserWarning)
        # transformers reports the adapters loaded earlier as missing from the new file.
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
            stack.callback(transformers_logging.set_verbosity, verbosity)
            for layers in self._layers.values():
                stack.enter_context(layers.all_wrapped())
            yield


def _failure(name: str) -> GenerationFailedError:
    return GenerationFailedError(f"adapter {name!r} does not load; the server's log has the cause")


def check_adds_only(file: Path, pipeline: Any) -> None:
    """Reject a file with NaN, or one that would change the model permanently.

    diffusers writes all tensors of a file, LoRA layers or not, into the model, and widens a
    transformer's layers to match the file, which control LoRAs rely on.

    Raises:
        ValueError: the file contains NaN or infinity, or changes more than LoRA layers.
        OSError, SafetensorError: the file cannot be read.
    """
    with safe_open(file, framework="pt") as tensors:
        if "lora_controlnet" in tensors.keys():  # noqa: SIM118 - not a dict
            raise ValueError("the file is a control LoRA")
        for key in tensors.keys():  # noqa: SIM118 - not a dict
            if not torch.isfinite(tensors.get_tensor(key)).all():
                raise ValueError(f"{key} contains NaN or infinity")
    transformer = pipeline.components.get("transformer")
    if transformer is None:
        return
    read = pipeline.lora_state_dict(
        file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True
    )
    for key, weight in (read[0] if isinstance(read, tuple) else read).items():
        if "lora" not in key:
            raise ValueError(f"{key} is not a LoRA layer")
        path, _, is_input = key.removeprefix("transformer.").partition(".lora_A.")
        width = getattr(_submodule(transformer, path), "in_features", None) if is_input else None
        if width not in (None, weight.shape[1]):
            raise ValueError(f"{key} expects {weight.shape[1]} channels, but the layer has {width}")


def _submodule(module: torch.nn.Module, path: str) -> torch.nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
