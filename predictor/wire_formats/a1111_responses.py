"""The response of A1111's ``txt2img`` and ``img2img``: pictures as base64, and ``info`` as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from predictor.errors import RefusedBySafetyError
from predictor.protocol import Call, EncodedResponse
from predictor.protocol.accept import JSON
from predictor.protocol.encode import PredictEvents, ResultEncoder, refusal_of, write_base64
from predictor.protocol.json_schema import object_schema
from predictor.requests import GenerationRequest, GenerationResult
from predictor.wire_formats.a1111_fields import A1111Request
from predictor.wire_formats.a1111_samplers import pair_of_scheduler

_HASH_LENGTH = 10
RESPONSE = object_schema(
    {
        "images": {"type": "array", "items": {"type": "string"}},
        "parameters": {"type": "object"},
        "info": {"type": "string"},
    }
)


@dataclass(frozen=True)
class A1111Form(PredictEvents):
    """The response to one request."""

    request: A1111Request

    def encoder(
        self, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> A1111Encoder:
        """See ``ResponseForm``."""
        return A1111Encoder(self, call, results, **origin)


class A1111Encoder(ResultEncoder):
    """Encodes the pictures that no safety layer blocks."""

    def __init__(
        self, form: A1111Form, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> None:
        super().__init__(call, results, **origin)
        self._request = form.request
        self._model = {"name": origin["model_name"], "hash": origin["revision"][:_HASH_LENGTH]}
        self._made: list[GenerationRequest] = []
        self.body.write(b'{"images":[')

    def add(self, index: int) -> None:
        """Encode the next picture; leave it out if it is blocked."""
        file = self.file(index)
        if file is None:
            return
        self.body.write(b',"' if self._made else b'"')
        write_base64(self.body, file)
        self.body.write(b'"')
        self._made.append(self.results[index].request)

    def metadata(self, result: GenerationResult) -> dict[str, Any]:
        """See ``ResultEncoder``; ``parameters`` is the infotext, where A1111 and others read it."""
        metadata = super().metadata(result)
        infotext = self._infotext(result.request)
        return metadata | {"parameters": infotext, "request_parameters": metadata["parameters"]}

    def response(self) -> EncodedResponse:
        """The response, once all pictures are added.

        Raises:
            RefusedBySafetyError: all pictures are blocked.
        """
        if not self._made:
            raise RefusedBySafetyError(refusal_of(self.results[0]))
        rest = {
            "parameters": self._request.parameters,
            "info": orjson.dumps(self._info()).decode(),
        }
        self.body.write(b"]," + orjson.dumps(rest)[1:])
        return EncodedResponse(self.body.getvalue(), self.headers | {"content-type": JSON})

    def _info(self) -> dict[str, Any]:
        first, count = self._made[0], len(self._made)
        seeds = [one.seed for one in self._made]
        return {
            "prompt": self._request.prompt,
            "all_prompts": [self._request.prompt] * count,
            "negative_prompt": first.negative_prompt,
            "all_negative_prompts": [first.negative_prompt] * count,
            "seed": first.seed,
            "all_seeds": seeds,
            "subseed": first.seed,
            "all_subseeds": seeds,
            "subseed_strength": 0,
            "width": first.width,
            "height": first.height,
            "sampler_name": pair_of_scheduler(first.scheduler)[0],
            "cfg_scale": first.guidance_scale,
            "steps": first.num_inference_steps,
            "batch_size": self._request.batch_size,
            "restore_faces": False,
            "sd_model_name": self._model["name"],
            "sd_model_hash": self._model["hash"],
            "denoising_strength": first.strength,
            "extra_generation_params": {},
            "index_of_first_image": 0,
            "infotexts": [self._infotext(one) for one in self._made],
            "styles": [],
            "clip_skip": (first.clip_skip or 0) + 1,
            "is_using_inpainting_conditioning": False,
        }

    def _infotext(self, made: GenerationRequest) -> str:
        """The parameters of a picture in the form that A1111 and its relatives paste."""
        sampler, schedule = pair_of_scheduler(made.scheduler)
        parameters = {
            "Steps": made.num_inference_steps,
            "Sampler": sampler,
            "Schedule type": schedule,
            "CFG scale": made.guidance_scale,
            "Seed": made.seed,
            "Size": f"{made.width}x{made.height}",
            "Model hash": self._model["hash"],
            "Model": self._model["name"],
            "Denoising strength": made.strength,
            "Clip skip": made.clip_skip + 1 if made.clip_skip else None,
        }
        lines = [self._request.prompt]
        if made.negative_prompt:
            lines.append(f"Negative prompt: {made.negative_prompt}")
        lines.append(
            ", ".join(f"{name}: {value}" for name, value in parameters.items() if value is not None)
        )
        return "\n".join(lines)
