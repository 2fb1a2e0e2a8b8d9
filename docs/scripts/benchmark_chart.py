"""The picture of docs/benchmark.md: time and memory of every contender, in units of the least that is possible."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from benchmark_page import Row
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

COLOURS = {"float32": "#1f4e79", "bfloat16": "#8fb8de"}


def draw(rows: list[Row], where: str, docs: Path) -> None:
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
        figure.savefig(docs / f"benchmark.{suffix}", dpi=110, metadata={"Date": None} if suffix == "svg" else None)


def bars(axes: Axes, rows: list[Row], values: list[float]) -> None:
    """Draw one bar per contender and dtype, from 1 on, on a logarithmic axis."""
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
