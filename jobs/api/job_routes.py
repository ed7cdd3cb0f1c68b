"""The routes under ``/v1/jobs``."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from jobs.api.access import owner_of
from jobs.api.documents import document_of, path_of
from jobs.api.event_stream import with_comments
from jobs.api.picture_file import picture_response
from jobs.api.service import Service
from jobs.errors import (
    BucketError,
    InvalidRequestError,
    JobNotFoundError,
    JobsError,
    PictureGoneError,
    PictureNotFoundError,
)
from jobs.job import STATUSES, Job
from jobs.requests import wait_seconds
from jobs.strict_json import write_json

_PAGE_PARAMETERS = ("status", "limit", "cursor")
DEFAULT_PAGE, LARGEST_PAGE = 20, 100
# Within 64 bits, which the storage requires.
_NUMBER = re.compile(r"[0-9]{1,18}")


class JobRoutes:
    """The handlers, each named by what it answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """All routes, with the handlers of this object."""
        return [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs", self.page, methods=["GET"]),
            Route("/v1/jobs/{id}", self.job, methods=["GET"]),
            Route("/v1/jobs/{id}", self.cancel, methods=["DELETE"]),
            Route("/v1/jobs/{id}/events", self.events, methods=["GET"]),
            Route("/v1/jobs/{id}/pictures/{number}", self.picture, methods=["GET"]),
        ]

    async def submit(self, request: Request) -> Response:
        """202, or 200 if the caller prefers to wait and the job ends in time."""
        submission = await self._service.submit(request)
        job = submission.job
        headers = {"location": path_of(job)}
        if seconds := wait_seconds(request.headers, self._service.settings.max_wait_seconds):
            headers["preference-applied"] = f"wait={seconds:g}"
            job = await self._service.wait_until_final(job, seconds)
        status = 200 if job.is_final else 202
        return JSONResponse(await self._service.document(job), status, headers)

    async def job(self, request: Request) -> Response:
        """The job as it is now, or once it has ended if the caller prefers to wait."""
        job = await self._service.requested(request)
        if seconds := wait_seconds(request.headers, self._service.settings.max_wait_seconds):
            job = await self._service.wait_until_final(job, seconds)
        return JSONResponse(await self._service.document(job))

    async def page(self, request: Request) -> Response:
        """Jobs of the caller's key, the newest first."""
        query = request.query_params
        if unknown := next((one for one in query if one not in _PAGE_PARAMETERS), None):
            raise InvalidRequestError(unknown, f"must be one of {', '.join(_PAGE_PARAMETERS)}")
        status = query.get("status")
        if status is not None and status not in STATUSES:
            raise InvalidRequestError("status", f"must be one of {', '.join(STATUSES)}")
        limit = query.get("limit", str(DEFAULT_PAGE))
        if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= LARGEST_PAGE:
            raise InvalidRequestError("limit", f"must be an integer from 1 to {LARGEST_PAGE}")
        before = _sequence(query["cursor"]) if "cursor" in query else None
        owner = owner_of(request)
        jobs = await self._service.storage.page(status, before, int(limit), owner)
        cursor = _cursor(jobs[-1]) if len(jobs) == int(limit) else None
        return JSONResponse({"jobs": [document_of(job) for job in jobs], "next_cursor": cursor})

    async def cancel(self, request: Request) -> Response:
        """The job, which has ended; the predictor stops at its next step."""
        job_id = (await self._service.requested(request)).id
        job = await self._service.storage.cancel(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return JSONResponse(await self._service.document(job))

    async def events(self, request: Request) -> Response:
        """Server-sent events: the job at each change, and its previews, until it has ended."""
        job = await self._service.requested(request)
        # HEAD has the headers alone, so it does not wait for the end of the job.
        events = with_comments(self._events(job.id)) if request.method == "GET" else iter(())
        headers = {"cache-control": "no-store"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def picture(self, request: Request) -> Response:
        """A picture as a file."""
        job = await self._service.requested(request)
        number = request.path_params["number"]
        if not _NUMBER.fullmatch(number):
            raise PictureNotFoundError("the number of a picture is an integer from 0")
        return await picture_of(request, self._service, job, int(number))

    async def _events(self, job_id: str) -> AsyncGenerator[bytes]:
        try:
            async for change in self._service.follow(job_id, with_previews=True):
                if isinstance(change, Job):
                    yield _event("job", await self._service.document(change))
                else:
                    yield b"event: preview\ndata: " + change + b"\n\n"
        except JobsError as error:
            # The headers have already said 200.
            yield _event("error", {"error": str(error)})


async def picture_of(request: Request, service: Service, job: Job, number: int) -> Response:
    """The file of a picture of a job, or a redirect to it in the bucket.

    Raises:
        PictureNotFoundError: the job has not made it.
        PictureGoneError: it was removed.
        BucketError: the program has no valid credentials for the bucket.
    """
    if job.status != "succeeded":
        raise PictureNotFoundError(f"the job is {job.status} and has no pictures")
    if number >= len(job.pictures):
        raise PictureNotFoundError(f"the job has {len(job.pictures)} pictures, counted from 0")
    picture = job.pictures[number]
    if not picture.media_type:
        raise PictureNotFoundError("the picture was refused by a safety layer of the predictor")
    if picture.location:
        return await _redirect(request, service, picture.location)
    content = await service.storage.picture(job.id, number)
    if content is None:
        raise PictureGoneError("the picture was removed to make room for newer ones")
    return picture_response(request, picture, content)


async def _redirect(request: Request, service: Service, location: str) -> Response:
    if not service.has_bucket:
        raise PictureGoneError("the picture is in a bucket, and the server has no bucket_url")
    link = await service.link(location, request.method)
    if link is None:
        raise BucketError("the bucket of the pictures cannot be used now")
    return RedirectResponse(link, 307, {"cache-control": "no-store"})


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: ".encode() + write_json(data) + b"\n\n"


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(str(job.sequence).encode()).decode()


def _sequence(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        text = ""
    if not _NUMBER.fullmatch(text):
        raise InvalidRequestError("cursor", "is not a next_cursor of this server")
    return int(text)
