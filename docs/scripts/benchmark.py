"""Write docs/benchmark.json and the tables of docs/benchmark.md, and draw docs/benchmark.png and .svg.

From the JSON of pytest-benchmark, whose path is the argument: ``nox -s benchmark`` makes it, and then runs this.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter
from page import fill_in, table

DOCS = Path(__file__).resolve().parents[1]
BASELINE = "torch"  # the common pattern
COLOURS = {"float32": "#1f4e79", "bfloat16": "#8fb8de"}
KEPT = ("median", "min", "iqr", "rounds")


class Row(NamedTuple):
    """One benchmark. Seconds of the median round; bytes at the worst moment, and of the gradients that are returned."""

    task: str
    shape: str
    hidden: int | None
    contender: str
    dtype: str
    seconds: float
    limit: float
    peak: int | None
    returned: int

    @property
    def over_limit(self) -> float:
        return self.seconds / self.limit

    @property
    def memory(self) -> float | None:
        """Bytes for each byte that has to be returned."""
        return None if self.peak is None else self.peak / self.returned


def rows_of(recorded: dict[str, Any]) -> list[Row]:
    rows = []
    for each in recorded["benchmarks"]:
        extra = each["extra_info"]
        measured = extra["limit_seconds"], extra["peak_bytes"], extra["returned_bytes"]
        names = extra["task"], extra["shape"], extra["hidden"], extra["contender"], extra["dtype"]
        rows.append(Row(*names, each["stats"]["median"], *measured))
    return rows


def trimmed(recorded: dict[str, Any]) -> dict[str, Any]:
    """What is kept: of every benchmark some statistics and what was noted, and of the machine its name."""
    machine = recorded["machine_info"]
    return {
        "datetime": recorded["datetime"],
        "machine": {"cpu": machine["cpu"].get("brand_raw", machine["processor"]), "python": machine["python_version"]},
        "benchmarks": [
            {
                "name": each["name"],
                "stats": {name: each["stats"][name] for name in KEPT},
                "extra_info": each["extra_info"],
            }
            for each in recorded["benchmarks"]
        ],
    }


def tables(rows: list[Row]) -> str:
    parts = []
    for task in dict.fromkeys(row.task for row in rows):
        some = [row for row in rows if row.task == task]
        dtypes = list(dict.fromkeys(row.dtype for row in some))
        head = ["", *(f"{dtype}: {what}" for dtype in dtypes for what in ("ms", "× torch", "× limit", "memory"))]
        lines = []
        for contender in dict.fromkeys(row.contender for row in some):
            cells = [contender]
            for dtype in dtypes:
                cells += figures(some, contender, dtype)
            lines.append(cells)
        made_of = "" if some[0].hidden is None else f" of a layer, H={some[0].hidden}"
        parts.append(f"### {some[0].shape}{made_of}\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def figures(rows: Iterable[Row], contender: str, dtype: str) -> list[str]:
    """The cells of one contender in one dtype."""
    of_dtype = {row.contender: row for row in rows if row.dtype == dtype}
    row, baseline = of_dtype.get(contender), of_dtype.get(BASELINE)
    if row is None:
        return ["–"] * 4
    share = "–" if baseline is None else f"{row.seconds / baseline.seconds:.2f}"
    memory = "–" if row.memory is None else f"{row.memory:.2f}"
    return [f"{1000 * row.seconds:.0f}", share, f"{row.over_limit:.1f}", memory]


def machine(recorded: dict[str, Any]) -> str:
    extra = recorded["benchmarks"][0]["extra_info"]
    where = recorded["machine_info"]["cpu"].get("brand_raw", "?") if extra["device"] == "cpu" else extra["device"]
    threads = f", {extra['threads']} thread{'s' * (extra['threads'] > 1)}" if extra["device"] == "cpu" else ""
    return f"{where}{threads}, torch {extra['torch']}, {recorded['datetime'][:10]}."


def draw(rows: list[Row], where: str) -> None:
    plt.rcParams["svg.hashsalt"] = "benchmark"  # the same names in every file
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure, axes = plt.subplots(2, len(tasks), figsize=(4 * len(tasks), 7), squeeze=False, layout="constrained")
    for column, task in enumerate(tasks):
        some = [row for row in rows if row.task == task]
        bars(axes[0][column], some, [row.over_limit for row in some])
        bars(axes[1][column], some, [row.memory or float("nan") for row in some])
        made_of = "" if some[0].hidden is None else f"\nof a layer, H={some[0].hidden}"
        axes[0][column].set_title(some[0].shape.replace(" [", "\n[") + made_of, fontsize=9)
        limit = "copying the logits" if some[0].hidden is None else "three matrix products"
        axes[0][column].set_xlabel(f"time ÷ {limit}")
        axes[1][column].set_xlabel("peak memory ÷ gradients returned")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="outside lower center", ncols=len(COLOURS))
    figure.suptitle(f"Forward and backward, medians. 1 is the limit. {where}", fontsize=10)
    for suffix in ("png", "svg"):
        figure.savefig(DOCS / f"benchmark.{suffix}", dpi=110, metadata={"Date": None} if suffix == "svg" else None)


def bars(axes: Axes, rows: list[Row], values: list[float]) -> None:
    """One bar a contender and dtype, from 1 on, on a logarithmic axis."""
    contenders = list(dict.fromkeys(row.contender for row in rows))
    for row, value in zip(rows, values, strict=True):
        place = contenders.index(row.contender) + 0.4 * list(COLOURS).index(row.dtype) - 0.2
        axes.barh(place, value - 1, 0.38, left=1, color=COLOURS[row.dtype])
        axes.text(max(value, 1), place, f" {value:.1f}", va="center", fontsize=7)
    axes.set_yticks(range(len(contenders)), contenders, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(1.0, *values) * 0.9, max(2.0, *values) * 1.6)
    axes.axvline(1, color="black", linewidth=1)


def main(path: str) -> None:
    recorded = json.loads(Path(path).read_text(encoding="utf-8"))
    rows = rows_of(recorded)
    kept = json.dumps(trimmed(recorded), indent=1, ensure_ascii=False)
    (DOCS / "benchmark.json").write_text(kept + "\n", encoding="utf-8")
    fill_in(DOCS / "benchmark.md", {"machine": machine(recorded), "figures": tables(rows)})
    draw(rows, machine(recorded))


if __name__ == "__main__":
    main(*sys.argv[1:])
