"""A predictor that computes nothing, so that ``bench.jobs`` measures the jobs program alone.

``python -m bench.instant_predictor PORT SECONDS``. It sends the events of a job of four steps over
``SECONDS``, for any number of jobs at the same time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys

STEPS = 4
LANES = 64
_PNG = base64.b64encode(bytes(4096)).decode()
_METRICS = f'diffusion_lanes{{model_name="stable-diffusion"}} {LANES}.0\n'.encode()
_HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: "


async def _serve(port: int, seconds: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(_HEAD + b"text/plain\r\n\r\n" + _METRICS)
            else:
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
                await reader.readexactly(length)
                writer.write(_HEAD + b"text/event-stream\r\n\r\n")
                for step in range(STEPS):
                    writer.write(_event("progress", {"step": step, "steps": STEPS}))
                    await asyncio.sleep(seconds / STEPS)
                image = {"format": "png", "b64": _PNG}
                writer.write(_event("result", {"predictions": [{"image": image, "seed": 1}]}))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
