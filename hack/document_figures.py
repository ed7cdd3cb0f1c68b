"""Write the speed tables of the documents from ``bench/results/``; ``--check`` only compares."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from hack.marked_tables import markdown_table, renewed, write  # noqa: E402

RESULTS = ROOT / "bench" / "results"

CONTESTANTS = {
    "bare": "one after another",
    "tuned": "whole batches, tuned",
    "muse": "whole batches, 10 s window",
    "ours": "sharing steps",
}
MEASURES = {
    "images_per_second": "pictures/s",
    "p50": "p50, s",
    "p95": "p95, s",
    "p99": "p99, s",
    "first_step_p50": "first step p50, s",
    "first_step_p95": "first step p95, s",
    "errors": "errors",
}
# The rows of the summary in docs/performance.md: the load in words, the section, and the measure.
SUMMARY = (
    ("1 user, 20 steps", "lone", "p50"),
    ("16 users, 20 steps", "alike", "images_per_second"),
    ("16 users, 10 to 50 steps", "crowd", "images_per_second"),
    ("16 users, 10 to 50 steps", "crowd", "p95"),
    ("Poisson arrivals, 80 % load", "steady", "p95"),
    ("4 steps, among 16 users of 50", "short", "p50"),
    ("300 users at once", "burst", "p95"),
)
# The rows of the README's table, in the same form.
CLAIMS = (
    ("16 users, 10 to 50 steps each", "crowd", "images_per_second"),
    ("a 4-step request among 16 users at 50 steps, median", "short", "p50"),
    ("Poisson arrivals at 80 % load, 95th percentile", "steady", "p95"),
    ("1 user, 20 steps, median", "lone", "p50"),
)
SHARES = {
    2: "twice as long",
    1.5: "half as long again",
    1.2: "a fifth longer",
    1: "just as long",
    3 / 4: "three quarters as long",
    2 / 3: "two thirds as long",
    1 / 2: "half as long",
    2 / 5: "two fifths as long",
    1 / 3: "a third as long",
    1 / 4: "a quarter as long",
    1 / 5: "a fifth as long",
    1 / 6: "a sixth as long",
    1 / 7: "a seventh as long",
    1 / 8: "an eighth as long",
    1 / 10: "a tenth as long",
    1 / 12: "a twelfth as long",
    1 / 15: "a fifteenth as long",
    1 / 20: "a twentieth as long",
    1 / 30: "a thirtieth as long",
    1 / 40: "a fortieth as long",
    1 / 50: "a fiftieth as long",
}
SECTIONS = {
    "lone": "1 user, 20 steps",
    "few": "10 to 50 steps",
    "crowd": "16 users, 10 to 50 steps",
    "alike": "16 users, 20 steps each",
    "hundred": "100 users, 10 to 50 steps",
    "burst": "300 users at once, 10 to 50 steps",
    "steadier": "Poisson arrivals, 10 to 50 steps",
    "steady": "Poisson arrivals at 80 %, 10 to 50 steps",
    "short": "4 steps, while 16 users ask for 50",
    "muse": "10 to 50 steps",
    "large": "16 users, 28 M weights at 256x256, 4 to 12 steps",
    "transformers": "16 users, 10 to 50 steps",
    "memory": "20 users, 2 to 6 steps",
}

# The rows of the table of overload: the measure in words and its name.
OVERLOAD = (
    ("served, steps/s", "goodput"),
    ("served, of the capacity", "goodput_to_capacity"),
    ("p95 of the served, s", "p95"),
    ("p95, of the one at 90 % load", "p95_to_90_percent"),
    ("refused after, p50, s", "refusal_p50"),
    ("refused after, p99, s", "refusal_p99"),
    ("health probe, p99, s", "health_p99"),
    ("requests", "requests"),
    ("refused", "refused"),
    ("other errors", "errors"),
    ("connections reset", "resets"),
)

# The rows of the table of previews: the measure in words and its name.
PREVIEWS = {name: MEASURES[name] for name in ("images_per_second", "p50", "p95", "first_step_p50")}

# The columns of the table of starts, and the rows of the table of ways to read weights.
PHASES = {
    "port": "port, s",
    "weights": "weights, s",
    "ready": "ready, s",
    "first_picture": "picture, s",
    "cpu_seconds": "CPU, s",
}
STARTED = {
    "demo": "demo",
    "sd15": "Stable Diffusion 1.5",
    "sdxl": "SDXL",
}
COLD = {"": "", ", weights cold": ", weights cold", ", all cold": ", everything cold"}
SERVERS = {
    "naive": "naive",
    "ours": "this project's",
    "again": "this project's, with its cache",
    "compiled": "this project's, compiled, with its cache",
}
# Of a phase: to the naive predictor's, or as the column says.
START_RATIOS = {
    "first_picture": "picture, of the naive",
    "cpu_seconds": "CPU, of the naive",
    "port_to_picture": "port, of the naive's picture",
    "first_to_tenth": "1st picture, of the 10th",
}
WAYS = {
    "mapped": "mapped, copied one by one",
    "read_ahead": "the same, while 8 threads read ahead",
    "mapped_in_threads": "mapped, copied by 8 threads",
    "pread": "`pread` into tensors by 8 threads",
    "fastsafetensors": "fastsafetensors 0.5",
    "runai": "Run:ai's streamer 0.17",
}

# The rows and the columns of the table of jobs; times are in milliseconds.
JOB_LOADS = {
    "users": "300 users",
    "burst": "300 submissions at once",
    "new connections": "the same, on new connections",
    "saturated": "16 users without a pause",
    "long queue": "the same, behind 10,000 jobs",
}
JOB_MEASURES = {"p50": "p50, ms", "p99": "p99, ms", "max": "slowest, ms"}

Figures = Mapping[str, Any]


def claims(figures: Figures) -> str:
    """The README's table: one load per row, and the gain over each other contestant in words."""
    rows = [("load", "compared with diffusers' own call", "compared with whole-request batches")]
    for words, section, measure in CLAIMS:
        ratios = figures[section]["ratios"]
        bare, tuned = (in_words(measure, ratios[name][measure]) for name in ("bare", "tuned"))
        rows.append((words, bare, tuned))
    return markdown_table(rows)


def in_words(measure: str, ratio: float) -> str:
    """A rate as a factor, a latency as the nearest of ``SHARES``."""
    if measure == "images_per_second":
        return f"{ratio:.1f} times as many pictures a second"
    nearest = min(SHARES, key=lambda share: abs(math.log(share / ratio)))
    return f"waits {SHARES[nearest]}"


def summary(figures: Figures) -> str:
    """One load per row and one contestant per column, ratios last."""
    contestants = [CONTESTANTS[name] for name in ("bare", "tuned", "ours")]
    rows = [["load", "measured", *contestants, "ratios"]]
    for words, section, measure in SUMMARY:
        part = figures[section]
        values = [part["contestants"][name][measure] for name in ("bare", "tuned", "ours")]
        both = [part["ratios"][name][measure] for name in ("bare", "tuned")]
        rows.append(
            [words, MEASURES[measure], *map(_short, values), " and ".join(map(_short, both))]
        )
    return markdown_table(rows)


def everything(figures: Figures) -> str:
    """One contestant under one load per row, one measure per column."""
    rows = [["load", "how", *MEASURES.values()]]
    for section, words in SECTIONS.items():
        for load, contestant, row in _contestants(words, figures.get(section, {})):
            rows.append([load, CONTESTANTS[contestant], *(_short(row[key]) for key in MEASURES)])
    return markdown_table(rows)


def overload(figures: Figures) -> str:
    """One measure per row, one kind of load per column."""
    found = figures["overload"]
    loads = {"at_90_percent": "90 % load", "open": "open loop", "closed": "closed loop"}
    steps = ", ".join(map(str, found["steps"]))
    head = f"{found['factor']:g} times the capacity for {found['seconds']:g} s, {steps} steps"
    rows = [[head, *loads.values()]]
    for words, measure in OVERLOAD:
        values = [found[load].get(measure) for load in loads]
        rows.append([words, *("" if value is None else _short(value) for value in values)])
    return markdown_table(rows)


def previews(figures: Figures) -> str:
    """One measure per row: without previews, with them, and the ratio of each round."""
    found = figures["previews"]
    head = f"{found['users']} users, {found['requested_previews']} previews requested"
    rows = [[head, "without", "with", "ratio"]]
    for measure, words in PREVIEWS.items():
        columns = [found[part][measure] for part in ("without", "with", "with_to_without")]
        rows.append([words, *map(_short, columns)])
    rows.append(["previews of a picture", "0", _short(found["previews_per_picture"]), ""])
    return markdown_table(rows)


def starts(figures: Figures) -> str:
    """One server and model per row, the time of each phase since exec, and the ratios."""
    rows = [["model", "server", *PHASES.values(), *START_RATIOS.values()]]
    for model, cold in product(STARTED, COLD):
        found = figures["start"].get(model + cold, {"contestants": {}})
        for name in [name for name in SERVERS if name in found["contestants"]]:
            times = [_short(found["contestants"][name][phase]) for phase in PHASES]
            ratio = found["ratios"].get(name, {})
            ratios = [_short(ratio[one]) if one in ratio else "" for one in START_RATIOS]
            rows.append([STARTED[model] + COLD[cold], SERVERS[name], *times, *ratios])
    return markdown_table(rows)


def weights(figures: Figures) -> str:
    """One way to read weights per row, one size and state of the page cache per column."""
    loads = [(size, cache) for size in figures["weights"] for cache in ("cold", "warm")]
    rows = [["seconds (CPU seconds)", *(f"{size}, {cache}" for size, cache in loads)]]
    for way, words in WAYS.items():
        found = [figures["weights"][size]["ways"].get(way, {}).get(cache) for size, cache in loads]
        rows.append([words, *map(_both_seconds, found)])
    return markdown_table(rows)


def capacity(figures: Figures) -> str:
    """One model per row: the learned batch size and when, and the measured one."""
    rows = [["model", "learned lanes", "after, s", "measured lanes", "throughput, of the measured"]]
    for name, found in figures["capacity"].get("models", {}).items():
        ends = [one["seconds"] for one in found["learned"] if one["lanes"] == found["lanes"]]
        after = _short(ends[0]) if ends else ""
        lanes = [str(found["lanes"]), after, str(found["measured"]["lanes"])]
        rows.append([name, *lanes, _short(found["learned_to_measured"])])
    return markdown_table(rows)


def jobs(figures: Figures) -> str:
    """One load and server per row."""
    rows = [["load", "server", "accepted a second", *JOB_MEASURES.values(), "lost", "errors"]]
    servers = figures["jobs"].get("servers", {})
    for (load, words), name in product(JOB_LOADS.items(), servers):
        if found := servers[name].get(load):
            times = [_short(1000 * found[measure]) for measure in JOB_MEASURES]
            counts = [str(found.get("lost", "")), str(found["errors"])]
            rows.append([words, name, _short(found["rate"]), *times, *counts])
    return markdown_table(rows)


def _both_seconds(found: Figures | None) -> str:
    return f"{found['seconds']:.3g} ({found['cpu_seconds']:.3g})" if found else ""


def _contestants(words: str, figures: Figures) -> Iterator[tuple[str, str, Figures]]:
    for name, row in figures.get("contestants", {}).items():
        yield words, name, row
    for part, inner in figures.items():
        if isinstance(inner, dict) and "contestants" in inner:
            yield from _contestants(f"{part}, {words}", inner)


def _short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


TABLES: Mapping[str, Mapping[str, Callable[[Figures], str]]] = {
    "README.md": {"figures": claims},
    "docs/performance.md": {
        "summary": summary,
        "figures": everything,
        "overload": overload,
        "previews": previews,
        "starts": starts,
        "weights": weights,
        "capacity": capacity,
    },
    "docs/jobs.md": {"figures": jobs},
}


def documented(document: str, name: str, figures: Figures) -> str:
    """The document ``name`` with its tables updated."""
    for mark, table in TABLES[name].items():
        document = renewed(document, mark, table(figures))
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    figures = json.loads((RESULTS / "concurrency.json").read_text("utf-8"))
    for name in ("overload", "previews", "start", "weights", "capacity", "jobs"):
        path = RESULTS / f"{name}.json"
        figures[name] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    documents = {ROOT / name: partial(documented, name=name, figures=figures) for name in TABLES}
    return write(documents, "the speed tables", arguments)


if __name__ == "__main__":
    sys.exit(main())
