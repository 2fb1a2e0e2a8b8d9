"""The small form of the page that `nox -s benchmark` writes; tests/benchmarks has that of what it records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def recorded() -> Any:
    """What docs/benchmark.json kept, with the machine as pytest-benchmark describes it."""
    kept = json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8"))
    machine = kept.pop("machine")
    described = {"cpu": {"brand_raw": machine["cpu"]}, "processor": "x86_64", "python_version": machine["python"]}
    return kept | {"machine_info": described}


def test_the_page_and_what_was_recorded_belong_together(scripts: Any, recorded: Any, tmp_path: Path) -> None:
    shutil.copy(DOCS / "benchmark.md", tmp_path)
    scripts.benchmark_page.write(recorded, tmp_path)
    for name in ("benchmark.md", "benchmark.json"):
        ours, theirs = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, DOCS))
        assert ours == theirs, f"docs/{name} is not what `nox -s benchmark` writes of docs/benchmark.json"


def test_a_figure_that_is_missing_is_a_dash(scripts: Any, recorded: Any) -> None:
    page = scripts.benchmark_page
    row = page.rows_of(recorded)[0]
    alone = [row._replace(contender="alone", peak=None)]
    ms = f"{1000 * row.seconds:.0f}"
    assert page.figures(alone, "alone", row.dtype) == [ms, "–", f"{row.over_limit:.1f}", "–"]
    assert page.figures(alone, "other", row.dtype) == ["–"] * 4


def test_every_benchmark_is_a_bar_of_time_and_one_of_memory(
    scripts: Any, recorded: Any, pyplot: MagicMock, tmp_path: Path
) -> None:
    rows = scripts.benchmark_page.rows_of(recorded)
    figure, axis = MagicMock(), MagicMock()
    pyplot.subplots.return_value = figure, [[axis] * len(rows)] * 2
    scripts.benchmark_chart.draw(rows, "a machine", tmp_path)
    assert axis.barh.call_count == 2 * len(rows)
    assert [call.args[0].name for call in figure.savefig.call_args_list] == ["benchmark.png", "benchmark.svg"]


def test_the_session_writes_and_draws(
    scripts: Any, recorded: Any, pyplot: MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, draw = scripts.benchmark, MagicMock()
    shutil.copy(DOCS / "benchmark.md", tmp_path)
    (tmp_path / "raw.json").write_text(json.dumps(recorded), encoding="utf-8")
    monkeypatch.setattr(benchmark, "DOCS", tmp_path)
    monkeypatch.setattr(benchmark, "draw", draw)
    benchmark.main(str(tmp_path / "raw.json"))
    page = scripts.benchmark_page
    draw.assert_called_once_with(page.rows_of(recorded), page.machine(recorded), tmp_path)
    assert (tmp_path / "benchmark.json").read_bytes() == (DOCS / "benchmark.json").read_bytes()
