"""Observes a call: its stages, its pictures and its parameters, for metrics, log and trace."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from predictor.engine import Engine, Previews, StepListener
from predictor.metrics import KEY_MEGAPIXELS, MEGAPIXELS, STAGE_SECONDS
from predictor.protocol import Call
from predictor.request_context import current_request
from predictor.requests import GenerationRequest, GenerationResult
from predictor.stages import Stage, StageTime

logger = logging.getLogger(__name__)


class CallObserver:
    """Observes the calls of one model; ``log_prompts`` is the setting."""

    def __init__(self, model_name: str, *, log_prompts: bool) -> None:
        self._model_name = model_name
        self._log_prompts = log_prompts

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time a stage of the whole call."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(StageTime.since(stage, started))

    def begin(self, call: Call) -> None:
        """Describe the call by its first picture; the others differ from it at least in seed.

        https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/ has no names for the
        parameters of diffusion.
        """
        first = call.pictures[0].request
        current_request().attributes |= {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.output.type": "image",
            "gen_ai.request.model": self._model_name,
            "gen_ai.request.choice.count": len(call.pictures),
            "gen_ai.request.seed": first.seed,
            "diffusion.task": first.task,
            "diffusion.width": first.width,
            "diffusion.height": first.height,
            "diffusion.num_inference_steps": first.num_inference_steps,
            "diffusion.scheduler": first.scheduler,
        }
        if self._log_prompts:
            self._show_prompts(call)

    async def generate(
        self,
        engine: Engine,
        request: GenerationRequest,
        on_step: StepListener,
        previews: Previews | None = None,
    ) -> GenerationResult:
        """Generate one picture and observe its result; see ``Engine.submit``."""
        result = await engine.submit(request, on_step, previews)
        for stage in result.stages:
            self._add(stage, request.seed)
        # A blocked prompt takes no time in the engine.
        if result.seconds:
            megapixels = request.width * request.height / 1e6
            MEGAPIXELS.labels(self._model_name).inc(megapixels)
            if caller := current_request().caller:
                KEY_MEGAPIXELS.labels(caller).inc(megapixels)
        return result

    def _add(self, stage: StageTime, seed: int | None = None) -> None:
        STAGE_SECONDS.labels(self._model_name, stage.stage).observe(stage.seconds)
        current_request().stages.append((stage, seed))

    def _show_prompts(self, call: Call) -> None:
        prompts = list(dict.fromkeys(picture.request.prompt for picture in call.pictures))
        current_request().attributes["diffusion.prompts"] = json.dumps(prompts)
        # As JSON, so that a prompt cannot break a line.
        logger.info("prompts: %s", json.dumps(prompts))
