"""The interfaces of the engine: what it offers the server, and what it needs of a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from predictor.requests import GenerationRequest, GenerationResult, ModelProfile

# Told how many steps are done and how many there are, on the engine's own thread.
StepListener: TypeAlias = Callable[[int, int], None]

if TYPE_CHECKING:
    # The server imports this module before its port opens; torch takes seconds.
    import torch
    from PIL import Image

    from predictor.engine.denoising import Denoising

    # What a text encoder made of one prompt: the tensors that the denoiser takes, one row of each.
    Conditioning: TypeAlias = tuple[torch.Tensor, ...]


class GenerationCancelledError(Exception):
    """Nobody waits for the picture any more; never seen outside the engine."""


class EngineState(NamedTuple):
    """What an engine is busy with.

    ``waiting`` and ``in_flight`` are pictures, ``lanes`` is the most samples of one forward pass,
    ``out_of_memory`` counts the batches that did not fit and were halved; ``safety`` how often a
    safety layer did what, by its name and ``pass``, ``error`` or its action.
    """

    waiting: int
    in_flight: int
    lanes: int
    out_of_memory: int
    safety: Mapping[tuple[str, str], int] = MappingProxyType({})


class Lane(NamedTuple):
    """One sample of a forward pass; ``model_input`` is ``(1, channels, height, width)``.

    ``is_negative``: it is the one without the prompt of a picture under guidance.
    """

    denoising: Denoising
    model_input: torch.Tensor
    conditioning: Conditioning
    is_negative: bool = False


class Engine(Protocol):
    """Makes pictures for many callers at once."""

    @property
    def state(self) -> EngineState:
        """How it fares at the moment."""

    async def submit(
        self, request: GenerationRequest, on_step: StepListener | None = None
    ) -> GenerationResult:
        """Make one picture; cancelling the await drops it from the queue or stops it at a step.

        Raises:
            OverloadedError: too many pictures are waiting.
            GenerationFailedError: this picture could not be made; others are not touched.
        """

    def close(self) -> None:
        """Drop what waits, stop what runs, free the pipeline's thread."""


class Pipeline(Protocol):
    """A model that makes whole pictures; called from a single thread."""

    @property
    def profile(self) -> ModelProfile:
        """What the protocol must know of the model."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: StepListener
    ) -> list[GenerationResult]:
        """Make the pictures of requests that differ in prompt and seed alone, in one call.

        What ``on_step`` raises ends the call.
        """


class Denoiser(Protocol):
    """A model whose steps the engine runs itself; all but ``finish`` from a single thread.

    A lane is one sample of a batch. A picture under classifier-free guidance takes two.
    """

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        """Encode all prompts at once; an empty one stands for no prompt at all.

        ``encoders`` is what a denoising of this denoiser names.
        """

    def begin(self, request: GenerationRequest) -> Denoising:
        """What the picture begins as, with a scheduler of its own."""

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """One forward pass over lanes of one kind and shape, each at its own timestep."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of one shape to images; on a GPU it need not be over when this returns."""

    def finish(self, image: torch.Tensor) -> Image.Image:
        """One decoded image as a picture; called from other threads than the rest.

        Raises:
            ArithmeticError: it holds NaN or infinity.
        """

    def warnings(self, request: GenerationRequest) -> tuple[str, ...]:
        """What the caller should know of what the model makes of the request."""
