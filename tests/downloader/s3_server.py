"""A real S3 server: ``python -m tests.downloader.s3_server [port]`` prints its port and serves."""

from __future__ import annotations

import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

if __name__ == "__main__":
    application = DomainDispatcherApplication(create_backend_app)
    port = int(sys.argv[1]) if sys.argv[1:] else 0
    server = make_server("127.0.0.1", port, application, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()
