"""Residency with a fake loader whose loads finish when the test says so."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.checks.read_speed import READ_LINE
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError, ModelUnavailableError, OverloadedError
from predictor.loading.loader import Loaded
from predictor.requests import GenerationDefaults, ModelProfile
from predictor.residency import Residency
from predictor.residency.load_phase import Phase
from predictor.residency.resident import Failure, Resident
from tests.predictor.checkpoints import unpublished

pytestmark = pytest.mark.anyio
PROFILE = ModelProfile("1", GenerationDefaults(64, 64, 1, 1.0, "unipc"), 8, ("unipc",))


class FakeEngine:
    """Records whether it was closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_closed = False
        self.state = (0, 0, 2, 0)

    def close(self) -> None:
        self.is_closed = True


class FakeLoader:
    """Loads models of one byte by default, with a budget in bytes; loads wait for ``gate``,
    and the imports for ``imports``.
    """

    def __init__(self, budget: float = 1, sizes: dict[str, int] | None = None) -> None:
        self.budget = budget
        self.sizes = sizes or {}
        self.errors: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.imports = threading.Event()
        self.imports.set()
        self.loads: list[str] = []
        self.most_at_once = 0
        self._loading = 0

    def prepare(self) -> None:
        assert self.imports.wait(10)

    def release(self) -> None:
        pass

    def budget_bytes(self) -> float:
        return self.budget

    def read(self, folder: Path) -> Checkpoint:
        return unpublished(folder)

    def expected_bytes(self, checkpoint: Checkpoint) -> int:
        return self.sizes.get(checkpoint.folder.name, 1)

    def load(self, checkpoint: Checkpoint, on_read: Callable[[], object]) -> Loaded:
        folder = checkpoint.folder
        self._loading += 1
        self.most_at_once = max(self.most_at_once, self._loading)
        assert self.gate.wait(10)
        self._loading -= 1
        on_read()
        self.loads.append(folder.name)
        if folder.name in self.errors:
            raise self.errors[folder.name]
        return Loaded(FakeEngine(folder), PROFILE, 0)  # type: ignore[arg-type]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def residency(
    loader: FakeLoader, root: Path, *, wait: float = 10, waiters: int = 64, names: str = "abc"
) -> Residency:
    made = Residency(loader, max_wait_seconds=wait, max_waiters=waiters)
    for name in names:
        (root / name).mkdir(exist_ok=True)
        made.add(name, root / name)
    return made


async def ask(
    models: Residency, name: str, work: Callable[[], Awaitable[Any]] | None = None
) -> str:
    async with models.use(name) as loaded:
        assert not loaded.engine.is_closed  # type: ignore[attr-defined]
        if work is not None:
            await work()
        assert not loaded.engine.is_closed, "unloaded while in use"  # type: ignore[attr-defined]
        return loaded.engine.folder.name  # type: ignore[attr-defined, no-any-return]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.001)


def loaded_names(models: Residency, names: str = "abc") -> str:
    return "".join(name for name in names if models[name].loaded is not None)


async def test_many_requests_share_one_load(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.gate.clear()
    models = residency(loader, tmp_path)

    asked = [asyncio.create_task(ask(models, "a")) for _ in range(20)]
    await until(lambda: models["a"].waiters == 20)
    state = models["a"].state
    loader.gate.set()

    assert await asyncio.gather(*asked) == ["a"] * 20
    assert (state, models["a"].state, loader.loads) == ("LOADING", "READY", ["a"])


async def test_the_doctor_finds_the_speed_of_a_read_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    models = residency(FakeLoader(), tmp_path)

    await ask(models, "a")

    (found,) = filter(None, map(READ_LINE.search, caplog.messages))
    assert (found[1], found[2]) == ("a", "0")


async def test_the_phases_of_a_load_are_reported_in_order(tmp_path: Path) -> None:
    loader = FakeLoader(budget=1)
    models = residency(loader, tmp_path)
    seen: dict[str, list[str]] = {"a": [], "b": []}
    for name, phases in seen.items():
        record(models[name], phases)

    loader.imports.clear()
    loader.gate.clear()
    preparing = asyncio.create_task(models.prepare())
    first = asyncio.create_task(ask(models, "a"))
    await until(lambda: seen["a"])
    loader.imports.set()
    await preparing
    second = asyncio.create_task(ask(models, "b"))
    await until(lambda: seen["b"])
    loader.gate.set()
    await asyncio.gather(first, second)

    assert seen == {
        "a": ["importing", "loading", "warming"],
        "b": ["queued", "loading", "warming"],
    }


def record(resident: Resident, phases: list[str]) -> None:
    """Append each phase that the load enters."""
    enter = resident.phase.enter

    def noting_enter(phase: Phase) -> None:
        phases.append(phase)
        enter(phase)

    resident.phase.enter = noting_enter  # type: ignore[method-assign]


async def test_a_preload_takes_no_place_of_a_request(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.gate.clear()
    models = residency(loader, tmp_path, waiters=1)
    preload = asyncio.create_task(models.preload(["a"]))
    await until(lambda: models["a"].waiters)
    waiting = asyncio.create_task(ask(models, "a"))
    await until(lambda: models["a"].waiters == 2)

    with pytest.raises(OverloadedError, match="1 requests already wait"):
        models.check_place("a")
    loader.gate.set()
    await preload

    assert await waiting == "a"
    models.check_place("a")


async def test_the_least_recently_used_model_is_unloaded_first(tmp_path: Path) -> None:
    models = residency(FakeLoader(budget=2), tmp_path)

    for name in "abac":
        await ask(models, name)

    assert loaded_names(models) == "ac"


async def test_three_models_with_memory_for_one_serve_many_requests(tmp_path: Path) -> None:
    loader = FakeLoader(budget=1)
    models = residency(loader, tmp_path)

    async def work() -> None:
        assert len(loaded_names(models)) == 1
        await asyncio.sleep(0.002)

    names = "abcbca" * 10
    answers = await asyncio.gather(*(ask(models, name, work) for name in names))

    assert answers == list(names)
    assert loader.most_at_once == 1
    assert len(loader.loads) == 3, "each model loads once for all waiting requests"


def test_a_model_is_not_idle_before_its_waiting_requests_have_started(tmp_path: Path) -> None:
    loaded = FakeLoader().load(unpublished(tmp_path), lambda: None)
    resident = Resident("a", tmp_path, loaded=loaded, waiters=1)
    leaving = Resident("a", tmp_path, loaded=loaded, waiters=1, is_leaving=True)

    assert not resident.is_idle
    assert leaving.is_idle, "new requests wait for the next load"


async def test_a_busy_model_is_not_unloaded_and_the_wait_for_it_is_bounded(tmp_path: Path) -> None:
    models = residency(FakeLoader(), tmp_path, wait=0.5)
    release = asyncio.Event()
    busy = asyncio.create_task(ask(models, "a", release.wait))
    await until(lambda: models["a"].users)

    with pytest.raises(ModelUnavailableError, match=r"'b' is still loading after 0\.5 s"):
        await ask(models, "b")
    assert loaded_names(models) == "a"
    release.set()

    assert await busy == "a"
    assert await ask(models, "b") == "b"


async def test_a_steady_load_on_one_model_does_not_starve_another(tmp_path: Path) -> None:
    models = residency(FakeLoader(), tmp_path, wait=4)
    over = asyncio.Event()

    async def keep_asking() -> int:
        asked = 0
        while not over.is_set():
            await ask(models, "a", lambda: asyncio.sleep(0.02))
            asked += 1
        return asked

    callers = [asyncio.create_task(keep_asking()) for _ in range(3)]
    await until(lambda: models["a"].users == 3)
    answer = await ask(models, "b")
    over.set()

    assert answer == "b"
    assert all(await asyncio.gather(*callers)), "a request was lost"


async def test_a_caller_that_times_out_leaves_no_load_waiting(tmp_path: Path) -> None:
    loader = FakeLoader()
    models = residency(loader, tmp_path)
    release = asyncio.Event()
    busy = asyncio.create_task(ask(models, "a", release.wait))
    await until(lambda: models["a"].users)
    leaver = asyncio.create_task(ask(models, "b"))
    await until(lambda: models["b"].loading)

    leaver.cancel()
    await until(lambda: models["b"].loading is None)
    release.set()

    assert await busy == "a"
    assert (loader.loads, loaded_names(models)) == (["a"], "a")


async def test_a_caller_that_disconnects_does_not_end_the_load(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.gate.clear()
    models = residency(loader, tmp_path)
    leaver = asyncio.create_task(ask(models, "a"))
    await until(lambda: loader._loading)

    leaver.cancel()
    loader.gate.set()
    await until(lambda: models["a"].is_open)

    assert await ask(models, "a") == "a"
    assert loader.loads == ["a"]


async def test_a_stream_keeps_its_model_after_the_call_has_returned(tmp_path: Path) -> None:
    models = residency(FakeLoader(), tmp_path, wait=0.1)
    async with models.use("a"):
        kept = models.keep("a")
        kept.__enter__()

    with pytest.raises(ModelUnavailableError, match="in use"):
        await models.unload("a")
    kept.__exit__(None, None, None)
    await models.unload("a")

    assert loaded_names(models) == ""


async def test_the_number_of_waiting_requests_is_bounded(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.gate.clear()
    models = residency(loader, tmp_path, waiters=2)
    asked = [asyncio.create_task(ask(models, "a")) for _ in range(2)]
    await until(lambda: models["a"].waiters == 2)

    with pytest.raises(OverloadedError, match="2 requests already wait for model 'a'"):
        await ask(models, "a")
    loader.gate.set()

    assert await asyncio.gather(*asked) == ["a", "a"]


async def test_a_failed_load_is_reported_and_retried_after_a_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    loader = FakeLoader(budget=2)
    loader.errors["a"] = ModelLoadError("the secret cause")
    models = residency(loader, tmp_path)

    failed = await asyncio.gather(*(ask(models, "a") for _ in range(3)), return_exceptions=True)
    with pytest.raises(ModelUnavailableError) as refused:
        await ask(models, "a")

    assert {type(error) for error in failed} == {ModelUnavailableError}
    assert str(refused.value) == "model 'a' could not be loaded; the log has the cause"
    assert 0 < refused.value.retry_after_seconds <= 5
    assert (models["a"].state, models["a"].reason) == ("UNAVAILABLE", str(refused.value))
    assert "the secret cause" in caplog.text
    assert loader.loads == ["a"], "retried without a pause"
    assert await ask(models, "b") == "b", "other models are affected"

    del loader.errors["a"]
    models["a"].failure = models["a"].failure._replace(retry_at=0)  # type: ignore[union-attr]
    assert await ask(models, "a") == "a"
    assert models["a"].failure is None


async def test_a_new_revision_is_tried_immediately_after_a_failure(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.errors["broken"] = ValueError("an unexpected error")
    for revision in ("broken", "whole"):
        (tmp_path / revision).mkdir()
    (tmp_path / "a").symlink_to("broken")
    models = residency(loader, tmp_path, names="a")
    with pytest.raises(ModelUnavailableError):
        await ask(models, "a")

    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("whole")

    assert await ask(models, "a") == "whole"


def test_the_pauses_between_retries_double_up_to_a_minute() -> None:
    failure, pauses = None, []
    for _ in range(6):
        failure = Failure.after(failure, Path("a"), "cause", "message")
        pauses.append(failure.pause)

    assert pauses == [5, 10, 20, 40, 60, 60]
    assert Failure.after(failure, Path("b"), "cause", "message").pause == 5


async def test_a_model_above_the_budget_is_rejected_with_both_sizes(tmp_path: Path) -> None:
    gib = 2**30
    loader = FakeLoader(budget=2 * gib, sizes={"b": 3 * gib, "a": gib})
    models = residency(loader, tmp_path)
    await ask(models, "a")

    with pytest.raises(ModelUnavailableError, match=r"'b' takes 3\.00 GiB .* is 2\.00"):
        await ask(models, "b")

    assert loaded_names(models) == "a", "another model was unloaded"


async def test_unloading_waits_for_the_pictures_and_new_requests_for_the_next_load(
    tmp_path: Path,
) -> None:
    loader = FakeLoader()
    models = residency(loader, tmp_path)
    release = asyncio.Event()
    busy = asyncio.create_task(ask(models, "a", release.wait))
    await until(lambda: models["a"].users)

    unloading = asyncio.create_task(models.unload("a"))
    await until(lambda: models["a"].is_leaving)
    newcomer = asyncio.create_task(ask(models, "a"))
    await until(lambda: models["a"].waiters)
    state = models["a"].state
    release.set()
    await asyncio.gather(busy, unloading, newcomer)

    assert state == "UNLOADING"
    assert loader.loads == ["a", "a"]


async def test_load_reloads_a_newer_revision(tmp_path: Path) -> None:
    for revision in ("1", "2"):
        (tmp_path / revision).mkdir()
    (tmp_path / "a").symlink_to("1")
    loader = FakeLoader()
    models = residency(loader, tmp_path, names="a")
    await models.load("a")
    await models.load("a")
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("2")

    stays = await ask(models, "a")
    await models.load("a")

    assert (stays, await ask(models, "a"), loader.loads) == ("1", "2", ["1", "2"])


async def test_a_preload_failure_reports_its_cause(tmp_path: Path) -> None:
    loader = FakeLoader(budget=2)
    loader.errors["b"] = ModelLoadError("the weights are gone")
    models = residency(loader, tmp_path)

    with pytest.raises(ModelLoadError, match="the weights are gone"):
        await models.preload(["a", "b"])

    assert loaded_names(models) == "a"
