"""The engine's interfaces: to the server above it and to the models below it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from predictor.engine.admission import Admission
from predictor.requests import GenerationRequest, GenerationResult, ModelProfile, Preview

# Called on a thread of the engine with the number of steps done and their total.
StepListener: TypeAlias = Callable[[int, int], None]

if TYPE_CHECKING:
    # The server imports this module before its port opens, and importing torch takes seconds.
    import torch
    from PIL import Image

    from predictor.engine.denoising import Denoising

    # One encoded prompt: the tensors that the denoiser takes, one row of each.
    Conditioning: TypeAlias = tuple[torch.Tensor, ...]


class GenerationCancelledError(Exception):
    """The caller has left, or the engine stops; never raised outside the engine."""


class EngineState(NamedTuple):
    """An engine's current load.

    ``waiting`` and ``in_flight`` count pictures. ``lanes`` is the largest number of samples in one
    forward pass. ``out_of_memory`` counts the batches that did not fit and were halved. ``safety``
    counts the outcomes of the safety layers, by layer and ``pass``, ``error`` or its action.
    ``capacity_changes`` counts how often ``lanes`` has ``grown`` and ``shrunk`` because of the time
    of passes.
    ``queue_seconds`` is the estimated wait of a picture that arrives now.
    ``failure`` says why the engine has stopped or hangs; it is empty while the engine works.
    """

    waiting: int
    in_flight: int
    lanes: int
    out_of_memory: int
    safety: Mapping[tuple[str, str], int] = MappingProxyType({})
    capacity_changes: Mapping[str, int] = MappingProxyType({})
    queue_seconds: float = 0.0
    failure: str = ""


class Lane(NamedTuple):
    """One sample of a forward pass; ``model_input`` is ``(1, channels, height, width)``.

    ``is_negative`` marks the negative prompt's lane of a picture with guidance.
    """

    denoising: Denoising
    model_input: torch.Tensor
    conditioning: Conditioning
    is_negative: bool = False


@dataclass(frozen=True)
class Previews:
    """A caller that wants up to ``count`` previews of a picture.

    ``on_preview`` is called on a thread of the engine, before the result is returned.
    """

    count: int
    on_preview: Callable[[Preview], None]


class Engine(Protocol):
    """Generates pictures for many callers at once."""

    @property
    def state(self) -> EngineState:
        """The current load."""

    @property
    def admission(self) -> Admission:
        """Decides which calls have a place; reserve the places of a call before ``submit``."""

    async def submit(
        self,
        request: GenerationRequest,
        on_step: StepListener | None = None,
        previews: Previews | None = None,
    ) -> GenerationResult:
        """Generate one picture; cancellation removes it from the queue or stops it after a step.

        An engine may send fewer previews, or none.

        Raises:
            OverloadedError: the request has no reserved place, and there is none left.
            GenerationFailedError: this picture failed; others are not affected.
            ModelUnavailableError: the engine has stopped or hangs; see ``EngineState.failure``.
        """

    def close(self) -> None:
        """Fail all unfinished requests and end the engine's thread, unless it hangs."""


class Pipeline(Protocol):
    """A model that generates whole pictures; called from a single thread."""

    @property
    def profile(self) -> ModelProfile:
        """What the protocol needs to know about the model."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: StepListener
    ) -> list[GenerationResult]:
        """Generate the pictures of requests that differ only in prompt and seed, in one call.

        An exception from ``on_step`` ends the call and propagates.
        """


class Denoiser(Protocol):
    """A model that the engine runs step by step.

    Only ``prepare`` and ``finish`` are called from other threads.

    A lane is one sample of a batch. A picture with classifier-free guidance takes two.
    ``guidance_is_input`` says whether the network takes ``guidance_scale`` as an input.
    """

    guidance_is_input: bool

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        """Encode all prompts at once; an empty string means no prompt.

        ``encoders`` is the attribute of the prompts' ``Denoising``.
        """

    def prepare(self, request: GenerationRequest) -> None:
        """Compute in advance what the other methods would compute on the engine's thread.

        Raises:
            PredictorError: the model cannot read the prompts.
        """

    def begin(self, request: GenerationRequest) -> Denoising:
        """The initial state of the picture."""

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """Run one forward pass over lanes of one kind and shape, each at its own timestep."""

    def decode(self, latents: torch.Tensor) -> Sequence[Any]:
        """Decode latents of one shape, to one value for each picture that ``finish`` converts.

        On a GPU the work may still run when this returns.
        """

    def finish(self, decoded: Any) -> Image.Image:
        """Wait for one decoded picture, and convert it; called from other threads.

        Raises:
            ArithmeticError: the picture holds NaN or infinity.
        """

    def warnings(self, request: GenerationRequest) -> tuple[str, ...]:
        """Warnings for the caller about how the model treats the request."""
