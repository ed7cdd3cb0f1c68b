"""Reader processes: what they cost the server, their limits, their queue and their deaths."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from predictor.errors import (
    BodyReaderKilledError,
    GenerationFailedError,
    InvalidRequestError,
    OverloadedError,
)
from predictor.intake import pool as pools
from predictor.intake.pool import ReaderPool
from predictor.intake.reader import memory_bytes
from predictor.intake.reader_process import RemoteImages
from predictor.protocol import Call, decode_call, parse
from predictor.requests import GenerationDefaults, InputImages, Limits, ModelProfile
from predictor.settings import Settings
from tests.predictor.extreme_pictures import (
    ACCEPTED,
    HOSTILE,
    MAX_PIXELS,
    endless_jpeg,
    file_of,
    gradient,
)
from tests.predictor.lock_holds import LockHolds

LIMITS = Limits(
    Settings(model_dir=Path("/")),
    ModelProfile(
        "r1",
        GenerationDefaults(512, 512, 20, 7.5, "unipc"),
        8,
        ("unipc",),
        tasks=("text-to-image", "image-to-image", "inpainting"),
        controlnets=("canny",),
    ),
)
CALL = Call((), as_json=False)
# A hundred milliseconds is what a probe may wait; holds were 0.2 to 6 s in the server itself.
MAX_HOLD = 0.05
Result = TypeVar("Result")


@pytest.fixture
def pool() -> Iterator[ReaderPool]:
    opened = ReaderPool(max_waiting=1)
    yield opened
    opened.close()


def as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def body_with(image: str, rest: str = "") -> bytes:
    return b'{"prompt":"a","width":512,"height":512,"image":"%s"%s}' % (
        image.encode(),
        rest.encode(),
    )


def decode(document: Any, images: RemoteImages) -> Call:
    return decode_call(parse(document, None, LIMITS), LIMITS, images)


async def read(pool: ReaderPool, body: Any, decoding: pools.Decode = decode) -> Call:
    return await pool.read(body, decoding, MAX_PIXELS)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, 120))


def pid(pool: ReaderPool) -> int:
    """Of the process that reads the next body."""

    def note(document: Any, images: RemoteImages) -> Call:
        pids.append(images._process.pid)
        return CALL

    pids: list[int] = []
    run(read(pool, b"{}", note))
    return pids[0]


def peak_bytes(pool: ReaderPool) -> int:
    """The most resident memory that the process has had (proc(5), ``VmHWM``)."""
    status = Path(f"/proc/{pid(pool)}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_start_adds_to_the_processes_that_bodies_have_started(pool: ReaderPool) -> None:
    started_by_a_body = pid(pool)

    pool.start()

    assert len(pool._processes) == 2
    assert started_by_a_body in {process.pid for process in pool._processes}


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_largest_pictures_are_read_within_the_bounds(pool: ReaderPool, name: str) -> None:
    body = body_with(as_text(ACCEPTED[name]()))

    with LockHolds() as holds:
        (picture,) = run(read(pool, body)).pictures

    assert picture.request.image
    assert (picture.request.image.image.mode, picture.request.image.image.size) == (
        "RGB",
        (512, 512),
    )
    assert holds.longest < MAX_HOLD
    assert peak_bytes(pool) < memory_bytes(MAX_PIXELS)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_read_or_refused_within_the_bounds(pool: ReaderPool, name: str) -> None:
    body = body_with(as_text(HOSTILE[name]()))

    with LockHolds() as holds:
        try:
            run(read(pool, body))
        except InvalidRequestError as error:
            assert error.field == "image"

    assert holds.longest < MAX_HOLD
    assert peak_bytes(pool) < memory_bytes(MAX_PIXELS)


def test_a_line_of_one_pixel_is_refused_before_it_is_decoded() -> None:
    text = as_text(HOSTILE["a line of a single pixel"]())

    with pytest.raises(InvalidRequestError, match="image: a side has 33554432 pixels, at most"):
        InputImages(MAX_PIXELS).size("image", text)


@pytest.mark.parametrize(
    ("size", "reason"),
    [((1, 101), "too narrow"), ((3300, 30), "too narrow"), ((32_769, 400), "32769 pixels")],
)
def test_a_narrow_picture_is_refused(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        InputImages(MAX_PIXELS).size("image", as_text(file_of(Image.new("1", size), "PNG")))


def test_a_picture_is_the_same_in_another_process(pool: ReaderPool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 300, 4), dtype=np.uint8)
    photo = file_of(Image.fromarray(noise[..., :3]), "JPEG")
    clear, mask = file_of(Image.fromarray(noise), "PNG"), file_of(gradient("L", (90, 50)), "PNG")
    fields: dict[str, Any] = {
        "prompt": "a",
        "image": as_text(photo),
        "mask_image": as_text(mask),
        "controlnet": {"name": "canny", "image": as_text(clear)},
    }
    body = parse({"instances": [fields, fields | {"image": as_text(clear)}]}, None, LIMITS)
    expected = decode_call(body, LIMITS)

    def as_sent(document: Any, images: RemoteImages) -> Call:
        return decode_call(parse(document, None, LIMITS), LIMITS, images)

    sent = {"instances": [fields, fields | {"image": as_text(clear)}]}
    found = run(read(pool, str(sent).replace("'", '"').encode(), as_sent))

    assert len(found.pictures) == 2
    for one, other in zip(found.pictures, expected.pictures, strict=True):
        assert one.request.image == other.request.image
        assert one.request.mask_image == other.request.mask_image
        assert one.request.controlnet == other.request.controlnet
        assert one.request.image
        assert other.request.image
        assert one.request.image.image.tobytes() == other.request.image.image.tobytes()
    # Decoded and sent once, however many instances name it.
    assert found.pictures[0].request.mask_image is found.pictures[1].request.mask_image


def test_transparency_does_not_depend_on_the_strips() -> None:
    values = np.random.default_rng(0).integers(0, 256, (600, 80, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

    read_image = InputImages(MAX_PIXELS).picture(
        "image", as_text(file_of(image, "PNG")), image.size
    )

    assert read_image.image.tobytes() == whole.tobytes()
    assert read_image.image.info == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"prompt":[' + b"1," * 8_000_000 + b"1]}", "more than 2000 values"),
        (b'{"prompt":[' + b"{}," * 5_000_000 + b"1]}", "more than 2000 values"),
        (b'{"prompt":' + b"[" * 16_000_000, "not valid JSON"),
        (b'{"prompt":"' + b"\\u4e00" * 2_500_000 + b'"}', "longer than"),
        (b'{"prompt":"a","' + b"x" * 16_000_000 + b'":1}', "a name of more than 256"),
        (b" " * 16_000_000, "not valid JSON"),
        (b'{"prompt":"a","image":"' + b"A" * 16_000_000 + b'"}', "image: is not a picture"),
        (b'{"prompt":"a","image":"data:' + b"A" * 16_000_000 + b'"}', "image: is neither"),
    ],
    ids=["numbers", "objects", "depth", "escapes", "name", "spaces", "letters", "data"],
)
def test_the_largest_bodies_do_not_hold_the_lock(
    pool: ReaderPool, body: bytes, reason: str
) -> None:
    with LockHolds() as holds, pytest.raises(InvalidRequestError, match=reason):
        run(read(pool, body))

    assert holds.longest < MAX_HOLD


def test_a_picture_that_takes_too_long_is_refused(pool: ReaderPool) -> None:
    text = as_text(endless_jpeg())

    def hurry(document: Any, images: RemoteImages) -> Call:
        """As if ten seconds were two, so that the test is short."""
        process = images._process.pid
        used = sum(map(float, Path(f"/proc/{process}/stat").read_text().split()[13:15]))
        _, hard = resource.prlimit(process, resource.RLIMIT_CPU)
        seconds = int(used / os.sysconf("SC_CLK_TCK")) + 2
        resource.prlimit(process, resource.RLIMIT_CPU, (seconds, hard))
        return decode(document, images)

    with pytest.raises(InvalidRequestError, match=r"^image: takes too much CPU time"):
        run(read(pool, body_with(text), hurry))
    assert run(read(pool, b'{"prompt":"a"}')).pictures


def test_a_picture_that_takes_too_much_memory_is_refused(pool: ReaderPool) -> None:
    text = as_text(ACCEPTED["a lossless WebP"]())

    def squeeze(document: Any, images: RemoteImages) -> Call:
        _, hard = resource.prlimit(images._process.pid, resource.RLIMIT_DATA)
        resource.prlimit(images._process.pid, resource.RLIMIT_DATA, (200 * 2**20, hard))
        return decode(document, images)

    with pytest.raises(InvalidRequestError, match=r"^image: (reading it takes more|is damaged)"):
        run(read(pool, body_with(text), squeeze))


def test_a_killed_process_is_replaced(pool: ReaderPool) -> None:
    def kill(document: Any, images: RemoteImages) -> Call:
        os.kill(images._process.pid, signal.SIGKILL)
        images.size("image", "any")
        return CALL

    with pytest.raises(BodyReaderKilledError):
        run(read(pool, b"{}", kill))
    killed_while_idle = pid(pool)
    os.kill(killed_while_idle, signal.SIGKILL)
    os.waitid(os.P_PID, killed_while_idle, os.WEXITED | os.WNOWAIT)
    assert run(read(pool, b'{"prompt":"a"}')).pictures


def test_a_single_kill_is_hidden(pool: ReaderPool) -> None:
    pids: list[int] = []

    def kill_the_first(document: Any, images: RemoteImages) -> Call:
        pids.append(images._process.pid)
        if len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)
        return decode(document, images)

    body = body_with(as_text(file_of(gradient("L", (90, 50)), "PNG")))

    assert run(read(pool, body, kill_the_first)).pictures[0].request.image
    assert len(set(pids)) == 2


def test_a_process_that_hangs_is_killed(
    pool: ReaderPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pid(pool)  # a process that is still starting could exceed the limit
    monkeypatch.setattr(pools, "_HANG_SECONDS", 1)
    pids: list[int] = []

    def stop(document: Any, images: RemoteImages) -> Call:
        pids.append(images._process.pid)
        os.kill(pids[0], signal.SIGSTOP)
        images.size("image", "any")
        return CALL

    with pytest.raises(BodyReaderKilledError, match="did not answer within 1 s; try again"):
        run(read(pool, b"{}", stop))

    assert len(pids) == 1
    assert not Path(f"/proc/{pids[0]}").exists()
    assert [record.message for record in caplog.records] == [
        "the process that reads pictures did not answer within 1 s: killed it"
    ]


def test_an_exit_in_a_decoder_is_an_internal_error(pool: ReaderPool) -> None:
    def leave(document: Any, images: RemoteImages) -> Call:
        raise SystemExit

    with pytest.raises(GenerationFailedError, match="the server's log has the cause"):
        run(read(pool, b"{}", leave))


def test_a_crash_of_a_decoder_is_the_fault_of_the_picture(pool: ReaderPool) -> None:
    def crash(document: Any, images: RemoteImages) -> Call:
        os.kill(images._process.pid, signal.SIGSEGV)
        images.size("image", "any")
        return CALL

    with pytest.raises(InvalidRequestError, match="image: crashes its decoder"):
        run(read(pool, b"{}", crash))


class Blocked:
    """A ``decode`` that waits until the test ends."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.count = 0

    def __call__(self, document: Any, images: RemoteImages) -> Call:
        self.count += 1
        self.begun.release()
        self.go_on.wait()
        return CALL


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("own", "readers"), [("10", "15"), ("19", "19")])
def test_a_reader_has_a_lower_priority_than_a_server_of_any_priority(
    own: str, readers: str
) -> None:
    code = (
        "import os; from predictor.intake.reader_process import ReaderProcess; "
        "reader = ReaderProcess(); print(os.getpriority(os.PRIO_PROCESS, reader.pid)); "
        "reader.close()"
    )
    command = ["nice", "-n", own, sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert printed == f"{readers}\n"


def test_the_queue_is_bounded_and_drops_callers_who_leave(pool: ReaderPool) -> None:
    blocked = Blocked()

    async def work() -> None:
        running = [asyncio.create_task(read(pool, b"{}", blocked)) for _ in range(2)]
        await until(lambda: blocked.count == 2)
        waiting = asyncio.create_task(read(pool, b"{}", blocked))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await read(pool, b"{}", blocked)
        waiting.cancel()
        await asyncio.wait([waiting])
        # There is room again.
        last = asyncio.create_task(read(pool, b"{}", blocked))
        await asyncio.sleep(0)
        blocked.go_on.set()
        await asyncio.gather(*running, last)

    run(work())

    assert blocked.count == 3


def test_bodies_in_the_queue_are_bounded_in_bytes(
    pool: ReaderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_WAITING_BYTES", 10)

    assert run(read(pool, b'{"p":"a"}', lambda *_: CALL)) is CALL
    with pytest.raises(OverloadedError):
        run(read(pool, b'{"p":"abcdefgh"}', lambda *_: CALL))


def test_a_caller_who_leaves_stops_the_process(
    pool: ReaderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_GRACE_SECONDS", 0.05)
    text = as_text(endless_jpeg())
    pids: list[int] = []

    def note(document: Any, images: RemoteImages) -> Call:
        pids.append(images._process.pid)
        return decode(document, images)

    async def work() -> None:
        leaving = asyncio.create_task(read(pool, body_with(text), note))
        await until(lambda: bool(pids))
        leaving.cancel()
        await asyncio.wait([leaving])
        await until(lambda: not Path(f"/proc/{pids[0]}").exists())
        assert (await read(pool, b'{"prompt":"a"}')).pictures

    run(work())


def test_closing_ends_the_processes() -> None:
    opened = ReaderPool()
    opened.start()
    processes = list(opened._processes)

    opened.close()

    assert len(processes) == 2
    for process in processes:
        process._process.wait(60)
