"""The chart of the results of ``bench/concurrency.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

LABELS = {
    "bare": "one after another",
    "muse": "whole batches, 10 s window",
    "tuned": "whole batches, tuned",
    "ours": "sharing steps",
}
COLOURS = {"bare": "#888888", "muse": "#c08030", "tuned": "#3070b0", "ours": "#208040"}


def draw(known: dict[str, Any], path: Path) -> None:
    """Write an SVG: rate over the number of users, and 95th percentile over the load."""
    pyplot.rcParams["svg.hashsalt"] = "concurrency"
    figure, (rates, waits) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _lines(rates, _by_users(known), "images_per_second")
    rates.set(xscale="log", xlabel="users", ylabel="pictures a second", ylim=(0, None))
    _lines(waits, _by_load(known), "p95")
    waits.set(yscale="log", xlabel="arrivals, % of the step loop's rate", ylabel="p95, seconds")
    if rates.lines:
        rates.legend(frameon=False)
    figure.suptitle("The demo model, 10 to 50 steps, two CPU cores")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _by_users(known: dict[str, Any]) -> dict[int, Any]:
    """Parts by number of users; where two have the same number, the one with more rounds wins."""
    parts: dict[int, Any] = {}
    for section in ("muse", "few"):
        for name, part in known.get(section, {}).items():
            if name.endswith((" user", " users")):
                parts.setdefault(int(name.split()[0]), {}).update(part["contestants"])
    for users, section in ((16, "crowd"), (100, "hundred"), (300, "burst")):
        if section in known:
            parts.setdefault(users, {}).update(known[section]["contestants"])
    return dict(sorted(parts.items()))


def _by_load(known: dict[str, Any]) -> dict[int, Any]:
    parts = {
        int(name[:-2]): part for name, part in known.get("steadier", {}).items() if "%" in name
    }
    if "steady" in known:
        parts[80] = known["steady"]
    return {load: part["contestants"] for load, part in sorted(parts.items())}


def _lines(axes: Any, parts: dict[int, Any], measure: str) -> None:
    for name, label in LABELS.items():
        points = {x: part[name][measure] for x, part in parts.items() if name in part}
        if points:
            axes.plot(*zip(*points.items(), strict=True), "o-", label=label, color=COLOURS[name])
    axes.spines[["top", "right"]].set_visible(False)
