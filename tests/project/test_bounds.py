"""The small form of `nox -s figures`: a few cases of every kind are judged, written as text, and drawn on nothing."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = ("higgs.mean_nonempty", "smoothing")  # codebooks, and a score of its own


@pytest.fixture(scope="module")
def found(scripts: Any) -> Any:
    judged, losses = scripts.bounds_judged, scripts.right_losses
    text = [loss for loss in losses.text_losses() if not loss.name.startswith("transformers")]
    others = {loss.spec.name: loss for loss in losses.other_losses() if loss.spec.name in OTHERS}
    assert set(others) == set(OTHERS)
    sizes = judged.Sizes(classes=(17,), tokens=(8,), others=((17, 1, 9),))
    return judged.measure_all([text[0], text[-1]], list(others.values()), sizes)


@pytest.fixture(scope="module")
def drawn(scripts: Any) -> Any:
    return list(scripts.bounds_judged.vacuous([PROFILES["hf.causal_lm"]], draws=1))


def test_the_right_losses_are_within_and_the_wrong_ones_are_told(scripts: Any, found: Any) -> None:
    assert not scripts.bounds_judged.alarms(found)
    told = {each.name for each in found if each.kind == "wrong" and each.worst > 1}
    assert told == {loss.name for loss in scripts.bounds_judged.WRONG}
    assert {each.kind for each in found} == {"right", "null", "wrong"}


def test_a_right_loss_out_of_bounds_is_an_alarm(scripts: Any, found: Any) -> None:
    far = next(each for each in found if each.kind == "right")._replace(value=2.0)
    assert scripts.bounds_judged.alarms([*found, far]) == [far]


def test_what_is_written_has_the_form_of_what_is_in_docs(scripts: Any, found: Any, drawn: Any, tmp_path: Path) -> None:
    shutil.copy(DOCS / "bounds.md", tmp_path)
    scripts.bounds_judged.write(found, drawn, tmp_path)
    with (tmp_path / "bounds.csv").open() as ours, (DOCS / "bounds.csv").open() as theirs:
        rows, full = list(csv.DictReader(ours)), list(csv.DictReader(theirs))
    assert {tuple(row) for row in rows} == {tuple(row) for row in full}, "the columns"
    for column in ("kind", "name", "dtype", "compute", "regime"):
        assert {row[column] for row in rows} == {row[column] for row in full}, column
    text, before = ((folder / "bounds.md").read_text(encoding="utf-8") for folder in (tmp_path, DOCS))
    assert text != before
    assert text.count("\n| ") > 3 * len(scripts.bounds_judged.STRICT)
    for name in ("right", "wrong", "vacuous"):  # the heads of the tables, which name every column
        head, was = (each.partition(f"<!-- {name} -->\n")[2].partition("\n")[0] for each in (text, before))
        assert head == was


def test_what_proves_nothing_is_counted(scripts: Any, drawn: Any) -> None:
    judged = scripts.bounds_judged
    assert {each.arithmetic for each in drawn} == {*judged.STRICT, *judged.NATIVE}
    assert all(each.cases > 0 and each.both <= each.cases for each in drawn)


def test_every_regime_of_every_arithmetic_is_drawn(scripts: Any, found: Any, pyplot: MagicMock, tmp_path: Path) -> None:
    judged = scripts.bounds_judged
    figure, axes = MagicMock(), MagicMock()
    pyplot.subplots.return_value = figure, axes
    scripts.bounds_chart.draw(found, tmp_path)
    columns, rows = len(judged.STRICT) + len(judged.NATIVE), 2
    assert axes[0, 0].scatter.call_count == columns * rows * (len(judged.REGIMES) + 1)
    assert [call.args[0].name for call in figure.savefig.call_args_list] == ["bounds.png", "bounds.svg"]


def test_the_session_writes_and_draws_and_fails_on_an_alarm(
    scripts: Any, found: Any, drawn: Any, pyplot: MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds, draw = scripts.bounds, MagicMock()
    shutil.copy(DOCS / "bounds.md", tmp_path)
    monkeypatch.setattr(bounds, "DOCS", tmp_path)
    monkeypatch.setattr(bounds, "draw", draw)
    monkeypatch.setattr(bounds, "measure_all", lambda text, others: found)
    monkeypatch.setattr(bounds, "vacuous", lambda specs, draws: drawn)
    bounds.main()
    draw.assert_called_once_with(found, tmp_path)
    assert (tmp_path / "bounds.csv").is_file()
    far = next(each for each in found if each.kind == "right")._replace(value=2.0)
    monkeypatch.setattr(bounds, "measure_all", lambda text, others: [*found, far])
    with pytest.raises(SystemExit, match="1 right evaluations are out of bounds"):
        bounds.main()
