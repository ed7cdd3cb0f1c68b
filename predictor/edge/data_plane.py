"""Health, readiness, and the forms of bodies: what KServe's routes ask of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

from kserve import ModelRepository
from kserve.constants.constants import PredictorProtocol
from kserve.errors import ModelNotReady, ServerNotLive
from kserve.protocol.dataplane import DataPlane

from predictor.edge.cloud_events import (
    binary_attributes,
    is_binary,
    is_structured,
    reject_batch,
    response_headers,
)
from predictor.edge.draining import Drain
from predictor.edge.repository import AwaitedModels
from predictor.protocol import EncodedResponse
from predictor.wire_formats import STRUCTURED_EVENT, Message


class DiffusionDataPlane(DataPlane):  # type: ignore[misc]  # kserve ships no types
    """KServe's data plane; its own always reports the server as live and ready."""

    is_preloaded = False

    def __init__(
        self, models: ModelRepository, drain: Drain, *, waits_for_load: bool = False
    ) -> None:
        super().__init__(model_registry=models)
        self._drain = drain
        self._waits_for_load = waits_for_load

    async def live(self) -> dict[str, str]:
        """The answer to liveness probes.

        A stopped engine also fails the other models of the process: only a restart frees its
        memory and, after a fatal CUDA error, the GPU.

        Raises:
            ServerNotLive: an engine has stopped or hangs.
        """
        if reason := self._engine_failure:
            raise ServerNotLive(reason)
        return await super().live()  # type: ignore[no-any-return]

    async def ready(self) -> bool:
        """Whether the pod should get requests: loaded, warmed up and not draining."""
        return self.is_preloaded and not self._drain.is_draining and not self._engine_failure

    @property
    def _engine_failure(self) -> str:
        models = self.model_registry
        return "" if isinstance(models, AwaitedModels) else models.residency.engine_failure

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        """KServe sets the flag before a prediction, and not for a probe.

        A draining pod fails its probes and still serves requests. A model that is not loaded
        accepts predictions: ``LoadWaitMiddleware`` has refused those that must not wait.
        """
        await self.model_registry.look_for(model_name)
        is_ready: bool = await super().model_ready(model_name, disable_predictor_health_check)
        if disable_predictor_health_check:
            models = self.model_registry
            return is_ready or models.loads_on_demand or not models.residency[model_name].is_open
        return is_ready and not self._drain.is_draining

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """The metadata of a loaded model; KServe's own response has empty lists."""
        await self.model_registry.look_for(model_name)
        metadata: dict[str, Any] = self.get_model_from_registry(model_name).metadata()
        return metadata

    def decode(
        self,
        body: Any,
        headers: dict[str, str],
        protocol_version: str = PredictorProtocol.REST_V1.value,
        model_name: str | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """The payload and, for a CloudEvent in binary mode, its attributes.

        ``DiffusionModel.predict`` reads the payload: here it would be parsed on the event loop.

        Raises:
            InvalidRequestError: the event is not valid.
            UnsupportedMediaTypeError: the body is a batch of events.
        """
        reject_batch(headers)
        if is_structured(headers):
            return Message(STRUCTURED_EVENT, body, headers), {}
        return body, binary_attributes(headers) if is_binary(headers) else {}

    async def answer(
        self, model_name: str, message: Message
    ) -> EncodedResponse | AsyncIterator[bytes]:
        """The response of a model to the message of a wire format.

        Raises:
            ModelNotReady: the model is not loaded, and requests do not wait for it.
        """
        if not await self.model_ready(model_name, disable_predictor_health_check=True):
            raise ModelNotReady(model_name)
        models = self.model_registry
        waits = self._waits_for_load or models.loads_on_demand
        if not waits and not models.residency[model_name].is_open:
            raise ModelNotReady(model_name)
        response, _ = await super().infer(model_name, message, dict(message.headers))
        return response  # type: ignore[no-any-return]

    async def infer(
        self, model_name: str, request: Any, headers: dict[str, str] | None = None
    ) -> tuple[Any, dict[str, str]]:
        """The response of the model and its headers."""
        response, added = await super().infer(model_name, request, headers)
        if isinstance(response, EncodedResponse):
            return response.body, added | response.headers
        return response, added

    async def explain(
        self, model_name: str, request: Any, headers: dict[str, str] | None = None
    ) -> NoReturn:
        """Reject the request; KServe's own text names an attribute of its class.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the server does not explain pictures: use `:predict`")

    def encode(
        self,
        model_name: str,
        response: Any,
        headers: dict[str, str],
        req_attributes: dict[str, Any],
    ) -> tuple[Any, dict[str, str]]:
        """The body of the response and further headers; a stream has none."""
        if is_binary(headers) and isinstance(response, bytes):
            return response, response_headers(model_name, req_attributes)
        return response, {}
