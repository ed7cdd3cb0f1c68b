"""The layers of one model that adapters change: put in place while a request uses them.

peft wraps a layer for good, which costs every forward pass some microseconds a layer, and diffusers
switches by walking all modules. Here the wrappers are known beforehand and stay outside the model
while no adapter of theirs is in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer


class _Place(NamedTuple):
    """Where a layer belongs, ``parent.name``, as it is and with adapters."""

    parent: torch.nn.Module
    name: str
    plain: torch.nn.Module
    wrapper: Any

    def put(self, layer: torch.nn.Module) -> None:
        # What ``setattr`` comes down to, in a tenth of the time: there are hundreds of layers.
        self.parent._modules[self.name] = layer


class AdaptedLayers:
    """Those of one ``module``; none is in place at the beginning."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._places: list[_Place] = []
        self._in_use: dict[str, float] | None = {}
        self.adapters: frozenset[str] = frozenset()

    @contextmanager
    def laid_open(self) -> Iterator[None]:
        """All wrappers in place, for diffusers to load or delete adapters; none afterwards."""
        self._in_use = None
        for place in self._places:
            place.put(place.wrapper)
        try:
            yield
        finally:
            self._places = list(_places(self._module))
            self.adapters = frozenset(
                name for place in self._places for name in place.wrapper.scaling
            )
            # New layers are made for training: a dropout would draw at random.
            self._module.eval()
            self.use({})

    def use(self, scales: Mapping[str, float]) -> None:
        """Compute with these adapters, by peft's names, and no others."""
        if scales == self._in_use:
            return
        self._in_use = None
        for place in self._places:
            wrapper = place.wrapper
            own = [name for name in scales if name in wrapper.scaling]
            place.put(wrapper if own else place.plain)
            if own:
                # Not ``set_adapter``: it prepares for training, which takes 20 times as long.
                wrapper._active_adapter = own
            for name in own:
                wrapper.set_scale(name, scales[name])
        self._in_use = dict(scales)


def _places(module: torch.nn.Module) -> Iterator[_Place]:
    for name, child in module.named_children():
        if isinstance(child, BaseTunerLayer):
            yield _Place(module, name, child.get_base_layer(), child)
        else:
            yield from _places(child)
