"""One call: the pictures to generate, and the response that its wire format defines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from predictor.images import OutputFormat
from predictor.requests import GenerationRequest, GenerationResult, Preview


class Picture(NamedTuple):
    """One picture of a call, the file format of the answer, and how many previews to send."""

    request: GenerationRequest
    output_format: OutputFormat
    previews: int = 0


@dataclass(frozen=True)
class EncodedResponse:
    """A body and its headers; the body of a stream is its last event."""

    body: bytes
    headers: dict[str, str]
    status: int = 200


class Encoder(Protocol):
    """Encodes the results of a call, one after another."""

    @property
    def pictures(self) -> int:
        """How many there are to add."""

    def add(self, index: int) -> None:
        """Encode the next picture, which takes up to a second."""

    def response(self) -> EncodedResponse:
        """The response, once all pictures are added."""


class ResponseForm(Protocol):
    """The response of a wire format other than ``:predict``."""

    def encoder(
        self,
        call: Call,
        results: Sequence[GenerationResult],
        *,
        model_name: str,
        revision: str,
        embed_metadata: bool,
    ) -> Encoder:
        """An encoder of one result for each picture."""

    def progress_event(self, step: int, steps: int) -> bytes:
        """What a stream of events sends after ``step`` of ``steps`` denoising steps."""

    def preview_event(self, call: Call, index: int, preview: Preview) -> bytes:
        """What a stream of events sends for a preview of a picture; it takes up to a second."""


@dataclass(frozen=True)
class Call:
    """One HTTP call: its pictures, and the form of the answer.

    ``as_json``: predictions instead of the bare file. ``as_events``: a stream of progress events
    that ends with the predictions. ``timeout``: how long the call may take, in seconds, if the
    caller says so. ``form``: the response; None for that of ``:predict``. ``known``: a response
    that needs no picture, such as 304.
    """

    pictures: tuple[Picture, ...]
    as_json: bool
    as_events: bool = False
    timeout: float | None = None
    form: ResponseForm | None = None
    known: EncodedResponse | None = None
