"""The short names that other queue servers use: generate, status and result."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jobs.api.documents import short_document_of
from jobs.api.job_routes import picture_of
from jobs.api.service import Service


class ShortRoutes:
    """The handlers of the short names."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """All routes, with the handlers of this object."""
        return [
            Route("/generate", self.generate, methods=["POST"]),
            Route("/status/{id}", self.status, methods=["GET"]),
            Route("/result/{id}", self.result, methods=["GET"]),
        ]

    async def generate(self, request: Request) -> Response:
        """202 with the identifier."""
        submission = await self._service.submit(request)
        return JSONResponse(short_document_of(submission.job), 202)

    async def status(self, request: Request) -> Response:
        """The status in the words of the short names."""
        return JSONResponse(short_document_of(await self._service.requested(request)))

    async def result(self, request: Request) -> Response:
        """The first picture as a file; 202 until it is done; 409 if there will be none."""
        job = await self._service.requested(request)
        if job.status == "succeeded":
            return await picture_of(request, self._service, job, 0)
        return JSONResponse(short_document_of(job), 409 if job.is_final else 202)
