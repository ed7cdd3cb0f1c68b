"""The forward pass of a network as code that ``torch.compile`` has generated ahead of time.

Code is for one form of the arguments: which ones are given, and the data type, device and number of
dimensions of each tensor. Torch's guards check the sizes, which are symbols in the code, so that it
fits other batches and pictures too. Arguments without code run the network itself, so that no
request waits for a compilation.
https://docs.pytorch.org/docs/stable/torch.compiler_aot_compile.html
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

# Of torch's guards, those of the arguments' sizes. The form covers the other arguments, and nothing
# changes the network of a server that compiles.
_SIZE_GUARDS = {"TENSOR_MATCH", "SHAPE_ENV"}


class CompiledForward:
    """Runs ``network`` in place of its ``__call__``, without its hooks where there is code.

    ``folder`` keeps the code for another process that loads the same network with the same
    libraries on the same kind of device; None keeps nothing. Anyone who can write to the folder
    can run code in the process that reads it. ``compiled`` and ``restored`` count the code that is
    new and that comes from the folder.
    """

    def __init__(self, network: Any, folder: Path | None = None) -> None:
        self._network = network
        self._folder = folder
        self._codes: dict[str, list[Any]] = {}
        self._compiles = False
        self.compiled = self.restored = 0
        # Where ``torch.nn.Module.compile`` puts it.
        network._compiled_call_impl = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        form = _form((args, kwargs))
        code = self._fitting(form, args, kwargs)
        if code is not None:
            return code(self._network, *args, **kwargs)
        return self._network._call_impl(*args, **kwargs)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Compile, within the context, for each call that no code fits.

        Raises:
            Exception: torch cannot compile the network in one piece.
        """
        self._compiles = True
        try:
            yield
        finally:
            self._compiles = False

    def _fitting(self, form: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any | None:
        """The code for the arguments; None if there is none, and none may be compiled."""
        # Callers choose some arguments, so later forms are not kept.
        if self._compiles and form not in self._codes:
            self._codes[form] = list(self._kept(form))
        codes = self._codes.get(form, [])
        for code in codes:
            if code.guard_check(self._network, *args, **kwargs):
                return code
        if not self._compiles:
            return None
        code = _compile(self._network, args, kwargs)
        self.compiled += 1
        self._keep(code, form, len(codes))
        codes.append(code)
        return code

    def _kept(self, form: str) -> Iterator[Any]:
        """The code that another process has kept for the form."""
        if self._folder is None:
            return
        for path in sorted(self._folder.glob(f"{_digest(form)}-*")):
            try:
                code = _read(path, self._network)
            except Exception as error:
                logger.warning("compiling again: %s", str(error) or type(error).__name__)
                return
            self.restored += 1
            yield code

    def _keep(self, code: Any, form: str, number: int) -> None:
        if self._folder is None:
            return
        path = self._folder / f"{_digest(form)}-{number}"
        try:
            code.save_compiled_function(str(path), external_data=_decorated(self._network))
        except Exception as error:
            logger.warning("the compiled code is not kept: %s", str(error) or type(error).__name__)


def _compile(network: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    compiled: Any = torch.compile(
        network.forward,
        fullgraph=True,
        dynamic=True,
        options={"guard_filter_fn": _are_of_sizes},
    )
    # A number that is a symbol would restart the compilation, which ``aot_compile`` cannot.
    with torch._dynamo.config.patch(specialize_float=True):
        code = compiled.aot_compile((args, kwargs))
    code.disable_guard_check()
    return code


def _read(path: Path, network: Any) -> Any:
    # Slow to import, and only used here.
    from torch._inductor import config, cpu_vec_isa

    globals_, decorated = network.forward.__func__.__globals__, _decorated(network)
    try:
        # Torch would try out the CPU's vector instructions again, which takes two seconds.
        with path.open("rb") as stream, config.patch({"cpp.vec_isa_ok": True}):
            code: Any = torch.compiler.load_compiled_function(
                stream, f_globals=globals_, external_data=decorated
            )
    except BaseException:
        cpu_vec_isa.valid_vec_isa_list.cache_clear()
        raise
    code.disable_guard_check()
    return code


def _are_of_sizes(guards: Iterable[Any]) -> list[bool]:
    return [guard.guard_type in _SIZE_GUARDS and "L['self']" not in guard.name for guard in guards]


def _form(value: Any) -> str:
    """Describe arguments without the sizes of tensors."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{value.ndim}{value.device}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{_form(one)}' for name, one in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_form, value))}]"
    return repr(value)


def _digest(form: str) -> str:
    return hashlib.sha256(form.encode()).hexdigest()[:16]


def _decorated(network: Any) -> dict[str, Any]:
    """The functions that the decorators of ``forward`` call, which have no name in a module."""
    forward = network.forward.__func__
    cells = zip(forward.__code__.co_freevars, forward.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if callable(cell.cell_contents)}
