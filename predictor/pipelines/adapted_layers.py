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

    def put(self, active: list[str]) -> None:
        """Let the layer compute with these adapters, by peft's names."""
        # What ``setattr`` and peft's ``set_adapter`` come down to when nothing is trained: the
        # layers of SDXL, 722, take them 40 ms.
        if active:
            object.__setattr__(self.wrapper, "_active_adapter", active)
        self.parent._modules[self.name] = self.wrapper if active else self.plain


class AdaptedLayers:
    """Those of one ``module``; none is in place at the beginning."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        # By the adapters that a layer has.
        self._places: dict[frozenset[str], list[_Place]] = {}
        self._in_use: dict[str, float] | None = {}
        self._scales: dict[str, float] = {}

    @property
    def adapters(self) -> frozenset[str]:
        """The adapters that change any layer, by peft's names."""
        return frozenset().union(*self._places)

    @contextmanager
    def all_wrapped(self) -> Iterator[None]:
        """All wrappers in place, for diffusers to load or delete adapters; none afterwards."""
        self._in_use = None
        for places in self._places.values():
            for place in places:
                place.parent._modules[place.name] = place.wrapper
        try:
            yield
        finally:
            self._places = {}
            for place in _places(self._module):
                self._places.setdefault(frozenset(place.wrapper.scaling), []).append(place)
            self._scales = {}
            # New layers are made for training: a dropout would draw at random.
            self._module.eval()
            self.use({})

    def use(self, scales: Mapping[str, float]) -> None:
        """Compute with these adapters, by peft's names, and no others."""
        if scales == self._in_use:
            return
        self._in_use = None
        changed = {name: one for name, one in scales.items() if self._scales.get(name) != one}
        for adapters, places in self._places.items():
            active = [name for name in scales if name in adapters]
            for place in places:
                place.put(active)
                for name, scale in changed.items():
                    # Does nothing to a layer that does not have the adapter.
                    place.wrapper.set_scale(name, scale)
        self._scales |= changed
        self._in_use = dict(scales)


def _places(module: torch.nn.Module) -> Iterator[_Place]:
    for name, child in module.named_children():
        if isinstance(child, BaseTunerLayer):
            yield _Place(module, name, child.get_base_layer(), child)
        else:
            yield from _places(child)
