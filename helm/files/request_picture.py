"""Request a picture from each URL until one decodes; arguments: prompt, seconds, URLs.

A URL that ends with /v1/jobs is that of the jobs program; all others are URLs of :predict.
"""

import io
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from PIL import Image

# A retry cannot change the answer.
PERMANENT = (400, 401, 403, 413, 422)
# A retry gets the same job.
IDEMPOTENCY_KEY = str(uuid.uuid4())


def request_picture(url, prompt, seconds):
    """Return the bytes of the picture. A closed port fails within seconds."""
    parts = urllib.parse.urlsplit(url)
    socket.create_connection((parts.hostname, parts.port or 80), timeout=5).close()
    if parts.path == "/v1/jobs":
        return picture_of_job(url, prompt, time.monotonic() + seconds)
    return send(url, seconds, {"prompt": prompt}, Accept="image/png")


def picture_of_job(url, prompt, deadline):
    """Submit a job, wait for its end, and return the bytes of its first picture."""
    headers = {"Prefer": "wait=30", "Idempotency-Key": IDEMPOTENCY_KEY}
    job = json.loads(send(url, 60, {"prompt": prompt}, **headers))
    while job["status"] in ("queued", "starting", "in_progress"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the job is {job['status']}")
        time.sleep(1)
        job = json.loads(send(f"{url}/{job['id']}", 60, Prefer="wait=30"))
    if job["status"] != "succeeded":
        sys.exit(f"{url}: the job is {job['status']}: {job['error']}")
    return send(urllib.parse.urljoin(url, job["pictures"][0]["url"]), 60)


def send(url, seconds, document=None, **headers):
    """Send a GET, or a POST with a document, and return the body of the response."""
    if key := os.environ.get("API_KEY", "").strip():
        headers["Authorization"] = f"Bearer {key}"
    body = None
    if document:
        headers["Content-Type"] = "application/json"
        body = json.dumps(document).encode()
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=seconds) as response:
        return response.read()


def addresses(url):
    """The URL, and the same on port 8080: KServe's Service may be headless and map no ports."""
    parts = urllib.parse.urlsplit(url)
    return [url] if parts.port else [url, parts._replace(netloc=f"{parts.hostname}:8080").geturl()]


def wait_for_picture(url, prompt, deadline):
    """Retry until the deadline: the model may be loading, or its pod starting from zero."""
    reason = reported = ""
    while time.monotonic() < deadline:
        for address in addresses(url):
            try:
                content = request_picture(address, prompt, deadline - time.monotonic())
                picture = Image.open(io.BytesIO(content))
                picture.load()
            except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors are among these.
                reason = f"{address}: {error}"
                if isinstance(error, urllib.error.HTTPError) and error.code in PERMANENT:
                    sys.exit(f"{reason}: {error.read().decode(errors='replace')}")
            else:
                print(f"{address}: a {picture.format} of {picture.width} x {picture.height}")
                return
        if reason != reported:
            print(f"{reason}; retrying", flush=True)
            reported = reason
        time.sleep(2)
    sys.exit(f"no picture in time; the last error was {reported}")


if __name__ == "__main__":
    prompt, seconds, *urls = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    for url in urls:
        wait_for_picture(url, prompt, end)
