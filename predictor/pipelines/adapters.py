"""LoRA adapters: loaded by diffusers when first asked for, in use for the requests that name them.

Loading takes seconds and memory, so a pod that starts does not wait for all that lie beside its
model. A file that does not load fails the requests that name it, and nobody else's.
"""

from __future__ import annotations

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

from predictor.errors import GenerationFailedError
from predictor.pipelines.adapted_layers import AdaptedLayers
from predictor.requests import Adapter

logger = logging.getLogger(__name__)

# What is loaded beyond this goes, the least recently used first. An SDXL LoRA takes 20 to 400 MiB.
MAX_BYTES = 2 * 2**30


class Adapters:
    """The LoRAs beside a pipeline; all calls come from a single thread.

    ``files`` gives each name its safetensors file.
    """

    def __init__(
        self, pipeline: Any, files: Mapping[str, Path] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self._pipeline = pipeline
        self._files = dict(files or {})
        if self._files and not hasattr(pipeline, "load_lora_weights"):
            logger.warning("%s takes no adapters: they are left out", type(pipeline).__name__)
            self._files.clear()
        # peft refuses dots in a name, and what a module's attributes are called; transformers looks
        # for a name anywhere in a key, so that none may begin another.
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
        """What a request may name."""
        return tuple(self._files)

    def load(self, adapters: Iterable[Adapter]) -> None:
        """Have these ready for use; others may have to go for them.

        Raises:
            GenerationFailedError: names the one that does not load.
        """
        wanted = [adapter.name for adapter in adapters]
        for name in wanted:
            if name not in self._loaded:
                self._load(name, wanted)
            self._loaded.move_to_end(name)

    def use(self, adapters: Sequence[Adapter], components: Container[str] | None = None) -> None:
        """Let the pipeline's components, or those of them, compute with these and no others.

        Raises:
            GenerationFailedError: one of them had gone and does not load again.
        """
        self.load(adapters)
        scales = {self._peft_names[adapter.name]: adapter.scale for adapter in adapters}
        for name, layers in self._layers.items():
            if components is None or name in components:
                layers.use(scales)

    def of(self, adapters: Iterable[Adapter], components: Container[str]) -> tuple[Adapter, ...]:
        """Those of the loaded ``adapters`` that change any of the components."""
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
        except torch.OutOfMemoryError:
            raise
        except OSError as error:
            raise _failure(name) from error
        except Exception as error:
            # No other try will succeed, and each would hold up everybody's steps.
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
        # Diffusers takes a file of another family for one without layers.
        if not any(peft_name in names for names in self._pipeline.get_list_adapters().values()):
            raise ValueError(f"{file.name} has no layers of this model")

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
        """All layers where diffusers looks for them, and weights that any thread may use."""
        # That there are several adapters is what we are here for.
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted", UserWarning)
        # transformers calls the adapters that are there already missing from the new file.
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
    """Refuse what would change the model itself, beyond what can be taken off again.

    Diffusers writes whatever a file holds beside LoRA layers into the model, and widens layers of a
    transformer to those of the file: control LoRAs are made for that.

    Raises:
        ValueError: the file does.
        OSError, SafetensorError: it cannot be read.
    """
    with safe_open(file, framework="pt") as tensors:
        if "lora_controlnet" in tensors.keys():  # noqa: SIM118 - it is no dict
            raise ValueError("it is a control LoRA")
    transformer = pipeline.components.get("transformer")
    if transformer is None:
        return
    read = pipeline.lora_state_dict(
        file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True
    )
    for key, weight in (read[0] if isinstance(read, tuple) else read).items():
        if "lora" not in key:
            raise ValueError(f"{key} is no LoRA layer")
        path, _, is_input = key.removeprefix("transformer.").partition(".lora_A.")
        width = getattr(_submodule(transformer, path), "in_features", None) if is_input else None
        if width not in (None, weight.shape[1]):
            raise ValueError(f"{key} takes {weight.shape[1]} channels, the layer {width}")


def _submodule(module: torch.nn.Module, path: str) -> torch.nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
