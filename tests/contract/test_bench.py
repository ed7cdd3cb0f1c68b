"""The benchmarks' arithmetic (percentiles, ratios) and the tables of the documents."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import torch

from bench import gpu, jobs, turns
from bench.figures import percentile, ratios, summary
from bench.job_servers import SERVERS, running, stand_in
from bench.job_users import OURS, Users
from bench.load import Outcome, Run
from bench.overload import goodput, overload
from bench.random_models import tiny
from bench.start import Seconds, verdicts
from bench.start import ratios as start_ratios
from demo.run import free_port
from hack.document_figures import main as document_figures

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed() -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert [percentile(values, part) for part in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([3.0], 0.5) == 3.0


def test_errors_count_but_do_not_raise_the_rate() -> None:
    run = Run([Outcome(1.0, 0.1, None), Outcome(2.0, 0.0, "429 later")], seconds=2.0)

    figures = summary([run])

    assert (figures["requests"], figures["errors"]) == (2, 1)
    assert figures["images_per_second"] == 0.5
    assert figures["first_error"] == "429 later"


def test_ratios_are_computed_per_round() -> None:
    def runs(*seconds: float) -> list[Run]:
        return [Run([Outcome(one, one, None)], one) for one in seconds]

    found = ratios({"bare": runs(2, 4, 100), "ours": runs(1, 1, 1)}, median)

    assert found["bare"]["p50"] == 0.25
    assert found["bare"]["images_per_second"] == 4


def served(ended: float, steps: int, seconds: float = 1.0) -> Outcome:
    return Outcome(seconds, 0.1, None, ended=ended, steps=steps)


def refused(ended: float, seconds: float) -> Outcome:
    return Outcome(seconds, 0.0, "429 later", 429, ended)


def test_goodput_counts_the_steps_of_served_pictures_within_the_load() -> None:
    early, late = served(0.9, 1_000), served(10.1, 1_000)
    run = Run([early, served(1.1, 30), served(9.9, 60), refused(5, 0.1), late], seconds=11)

    # The first tenth of 10 s is the ramp.
    assert goodput(run, 10) == 10


def test_the_figures_of_an_overload() -> None:
    reset = Outcome(1.0, 0.0, "ReadError('')", 0, 5.0)
    failed = Outcome(1.0, 0.0, "500 oops", 500, 5.0)
    outcomes = [served(5, 90, seconds=3.0), refused(5, 0.01), refused(6, 0.03), reset, failed]

    figures = overload(Run(outcomes, 10), [0.001] * 99 + [0.2], 10, capacity=20, p95=2.0)

    assert (figures["goodput"], figures["goodput_to_capacity"]) == (10, 0.5)
    assert (figures["p95"], figures["p95_to_90_percent"]) == (3.0, 1.5)
    assert (figures["refusal_p50"], figures["refusal_p99"]) == (0.01, 0.03)
    assert (figures["health_p50"], figures["health_p99"]) == (0.001, 0.001)
    counts = [figures[name] for name in ("requests", "refused", "errors", "resets")]
    assert counts == [5, 2, 1, 1]


def started(port: float, first_picture: float, picture: float, tenth: float) -> Seconds:
    times = {"port": port, "ready": first_picture, "first_picture": first_picture}
    return times | {"cpu_seconds": 8.0, "picture": picture, "tenth_picture": tenth}


def test_the_ratios_of_starts_compare_what_the_goals_name() -> None:
    runs = {
        "naive": [started(8, 10, 1, 1), started(16, 20, 1, 1)],
        "ours": [started(2, 8, 0.6, 0.5), started(4, 16, 0.6, 0.5)],
        "compiled": [started(2, 12, 0.6, 0.5), started(4, 24, 0.6, 0.5)],
    }

    ours, compiled = start_ratios(runs, "ours"), start_ratios(runs, "compiled")

    assert (ours["port"], ours["port_to_picture"]) == (0.25, 0.2)
    assert (ours["first_picture"], ours["first_to_tenth"]) == (0.8, 1.2)
    assert (compiled["first_picture"], compiled["to_uncompiled"]) == (1.2, 1.5)


def test_a_goal_is_met_up_to_its_ratio() -> None:
    found = {"ours": {"first_picture": 0.9, "first_to_tenth": 1.3}}
    goals = {
        ("ours", "first_picture"): 0.9,
        ("ours", "first_to_tenth"): 1.2,
        ("compiled", "to_uncompiled"): 1.3,
    }

    lines = list(verdicts(found, goals))

    assert [line.rpartition(": ")[2] for line in lines] == ["met", "missed"]


def test_the_figures_of_jobs_are_medians_and_totals() -> None:
    rounds = [{"jobs": 300, "errors": one, "lost": one, "p99": 0.01 * one} for one in (0, 1, 5)]

    assert jobs._median(rounds) == {"jobs": 900, "errors": 6, "lost": 6, "p99": 0.01}


def test_the_ratios_of_jobs_compare_servers_with_the_same_storage() -> None:
    def rounds(*p99: float) -> dict[str, list[dict[str, float]]]:
        return {"users": [{"rate": 30.0, "p50": one / 2, "p99": one} for one in p99]}

    found = {
        "ours, Redis": rounds(2, 9, 3),
        "naive, Redis": rounds(1, 1, 2),
        "naive, memory": rounds(7, 7, 7),
    }

    ratio = {"rate": 1.0, "p50": 2.0, "p99": 2.0}
    assert jobs.ratios(found) == {"ours, Redis to naive, Redis": {"users": ratio}}


def test_the_users_of_jobs_see_each_of_them_end() -> None:
    """A short run against a real process."""
    (server,) = [one for one in SERVERS if one.name == "ours, SQLite"]
    with stand_in(free_port()) as predictor, running(server, predictor) as port:
        users = Users(port, OURS, 6)
        load = users.run(lambda: users.think_and_submit(1.0, think=0.2))

    assert load.errors == []
    assert load.ended == len(load.accepted) > 0


def test_the_speed_tables_match_the_results() -> None:
    assert document_figures(["--check"]) == 0


def test_the_bench_of_turns_times_each_admission_and_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "STEPS", 2)
    monkeypatch.setattr(turns, "CROWD", 4)
    model = turns.random_model(tiny)

    admissions = turns.admission_seconds(model, 3)
    figures = turns.largest_turns(model)

    assert len(admissions) == 3
    assert min(admissions) > 0
    assert 1 <= figures["pictures"] <= turns.CROWD
    assert 0 < figures["not_the_network"] < 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_bench_prints_its_rows_for_a_tiny_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = ["eager", "graphs"]
    monkeypatch.setattr(sys, "argv", ["gpu", "--shapes", "tiny", "--modes", *modes])

    assert gpu.main() == 0

    lines = [line.partition(" {") for line in capsys.readouterr().out.splitlines()]
    rows = {name: json.loads("{" + figures) for name, _, figures in lines}
    ours = ["", ", 16 mixed", ", a turn of 1", ", a turn of 16", ", memory"]
    expected = ["unet"]
    for mode in modes:
        expected += [f"ours {mode}, start", *(f"ours {mode}{row}" for row in ours)]
    assert list(rows) == [f"tiny {name}" for name in expected]
    # The figures themselves mean nothing on a busy CPU.
    assert rows["tiny ours eager, a turn of 16"].keys() == {
        *("turn_ms", "unet_ms", "outside_ms", "achieved_tflops", "of_matmul"),
        *("pictures_a_second", "seconds"),
    }


def test_the_gpu_bench_compiles_last() -> None:
    groups = [*gpu._groups(["small", "large"], gpu.MODES)]

    plain = ["diffusers", "eager", "graphs"]
    assert groups == [
        *(("small", plain), ("large", plain)),
        *(("small", ["compiled"]), ("large", ["compiled"])),
    ]
    assert [*gpu._groups(["small"], ["compiled"])] == [("small", ["compiled"])]


def test_a_failed_row_of_the_gpu_bench_costs_only_its_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shape:
        def __init__(self, model: str, matmul_rate: float) -> None:
            self._model = model

        def rows(self, modes: list[str]) -> Iterator[gpu.Row]:
            yield "first", {}
            if self._model == "large" and modes != ["compiled"]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield "second", {}

    monkeypatch.setattr(gpu, "Shape", Shape)
    monkeypatch.setattr(gpu, "MODELS", {"large": "large", "small": "small"})
    monkeypatch.setattr(gpu, "_write", lambda result: None)

    assert gpu._measure(["large", "small"], ["eager", "compiled"]) == 1

    printed = capsys.readouterr()
    plain = ["large first", "small first", "small second"]
    compiled = ["large first", "large second", "small first", "small second"]
    assert [line.partition(" {")[0] for line in printed.out.splitlines()] == plain + compiled
    assert "CUDA out of memory" in printed.err


def test_the_gpu_bench_ends_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, statuses = threading.Event(), []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(gpu.os, "_exit", end)

    with gpu._time_limit(0.0):
        assert ended.wait(60)

    assert statuses == [0]
    assert capsys.readouterr().out == "the time is over\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_bench_prints_a_notice_without_a_gpu() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bench.gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0
    assert "no GPU here" in result.stdout
