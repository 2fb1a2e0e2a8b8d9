"""The part of pytest-benchmark's records that docs/benchmark.json keeps, and the tables of docs/benchmark.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from page import fill_in, table

BASELINE = "torch"  # the common pattern
KEPT = ("median", "min", "iqr", "rounds")


class Row(NamedTuple):
    """One benchmark: seconds of the median round, peak bytes, and bytes of the returned gradients."""

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
        """Peak bytes per byte that has to be returned."""
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
    """Return what is kept: some statistics and notes of every benchmark, and the name of the machine."""
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
    """Return the cells of one contender in one dtype."""
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


def write(recorded: dict[str, Any], docs: Path) -> None:
    """Write benchmark.json and the tables of benchmark.md."""
    kept = json.dumps(trimmed(recorded), indent=1, ensure_ascii=False)
    (docs / "benchmark.json").write_text(kept + "\n", encoding="utf-8")
    fill_in(docs / "benchmark.md", {"machine": machine(recorded), "figures": tables(rows_of(recorded))})
