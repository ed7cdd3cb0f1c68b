"""``predict``: request one picture from a deployed service."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from deploy.console import Reporter
from deploy.endpoint import curl_of, endpoint_of, make_picture, read_key
from deploy.errors import NotReadyError, UsageError
from deploy.objects import Object, name_of, title
from deploy.session import Session
from deploy.settings import Predict, seconds_of
from deploy.waits import Deadline


def run(flags: Predict, reporter: Reporter) -> None:
    """Send the request, write the file, and print the curl line that does the same."""
    session = Session.open(flags, flags.folder)
    wanted = session.service(flags.service)
    service = session.cluster.get(wanted["apiVersion"], wanted["kind"], name_of(wanted))
    if service is None:
        raise NotReadyError(f"{title(wanted)} is not deployed; run `up`")
    body: dict[str, object] = {"prompt": flags.prompt}
    if flags.seed is not None:
        body["parameters"] = {"seed": flags.seed}
    deadline = Deadline(seconds_of(flags.timeout))
    draw(service, flags.address, body, flags.output, deadline, reporter, flags.api_key_file)


def draw(
    service: Object,
    address: str | None,
    body: Mapping[str, object],
    output: Path,
    deadline: Deadline,
    reporter: Reporter,
    key_file: Path | None = None,
) -> None:
    """Request one picture and print where it is.

    Raises:
        PredictError: the response has no picture, or there is no response.
        UsageError: the file cannot be written, or that of the key cannot be read.
    """
    key = read_key(key_file)
    endpoint = endpoint_of(service, address)
    begun = time.monotonic()
    picture = make_picture(endpoint, body, service, deadline.at_most(600), key)
    try:
        output.write_bytes(picture.content)
    except OSError as error:
        raise UsageError(f"--output: {error}") from None
    seed = f", seed {picture.seed}" if picture.seed else ""
    reporter.finding("ok", f"{output}: {picture.format}, {time.monotonic() - begun:.1f} s{seed}")
    reporter.say(f"\n{curl_of(endpoint, body, output, key_file)}")
