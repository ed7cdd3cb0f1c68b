"""Request a picture from each URL until one decodes; arguments: prompt, seconds, URLs."""

import io
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from PIL import Image

# A retry cannot change the answer.
PERMANENT = (400, 401, 403, 413, 422)


def request_picture(url, prompt, seconds):
    """Return the bytes of the picture. A closed port fails within seconds."""
    parts = urllib.parse.urlsplit(url)
    socket.create_connection((parts.hostname, parts.port or 80), timeout=5).close()
    headers = {"Content-Type": "application/json", "Accept": "image/png"}
    if key := os.environ.get("API_KEY", "").strip():
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps({"prompt": prompt}).encode(), headers)
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
