"""An exit of a library on another thread fails its work, and neither the event loop nor others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from PIL import Image

from predictor.engine.composite import CompositeEngine
from predictor.errors import GenerationFailedError
from predictor.requests import InputImage
from predictor.residency.room import in_own_thread
from predictor.safety import review
from tests.predictor.fake_denoiser import FakeDenoiser
from tests.predictor.test_reviewed_engine import PICTURE, REQUEST, DrawnEngine, Layer, reviewed
from tests.predictor.test_worker import outcome, raising, step_engine


class PanicError(BaseException):
    """As the tokenizers, which are in Rust, raise it."""


EXITS = pytest.mark.parametrize(
    "error", [SystemExit("secret"), PanicError("secret")], ids=["exit", "panic"]
)
CAUSE_IS_LOGGED = r"^[^:]+ failed; the server's log has the cause$"


@EXITS
def test_while_a_request_is_prepared_it_fails_only_this_request(error: BaseException) -> None:
    denoiser = FakeDenoiser()
    denoiser.gate.release(100_000)
    engine, own = step_engine(denoiser), denoiser.prepare
    denoiser.prepare = raising(error)  # type: ignore[method-assign]
    failed = outcome(engine)
    denoiser.prepare = own  # type: ignore[method-assign]

    assert isinstance(failed, GenerationFailedError)
    assert "secret" not in str(failed)
    assert engine.state.failure == ""
    assert not isinstance(outcome(engine), Exception)
    engine.close()


@EXITS
def test_while_a_picture_is_reviewed(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "blurred", raising(error))

    with pytest.raises(GenerationFailedError, match=CAUSE_IS_LOGGED):
        reviewed(Layer("safety_checker", "blur", True))


@EXITS
def test_while_a_picture_is_composed(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "composite", raising(error))
    image = InputImage.of(PICTURE)
    request = replace(REQUEST, image=image, mask_image=image)

    with pytest.raises(GenerationFailedError, match=CAUSE_IS_LOGGED):
        asyncio.run(CompositeEngine(DrawnEngine()).submit(request))


@EXITS
def test_while_a_model_loads(error: BaseException) -> None:
    with pytest.raises(GenerationFailedError, match=CAUSE_IS_LOGGED):
        asyncio.run(in_own_thread(raising(error), "any"))
