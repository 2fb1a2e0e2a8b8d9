"""The row that comes of one class."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.sweep.judge import judge
from shiftproof.harness.sweep.result import Documentation, Outcome, Row
from shiftproof.harness.sweep.settings import Settings

CANDIDATES = Path(__file__).parents[2] / "candidates" / "models.py"


def row_of(name: str) -> Row:
    return judge(f"{CANDIDATES}:{name}", Settings(seed=3))


def test_a_right_model() -> None:
    row = row_of("Right")
    assert (row.outcome, row.alignment, row.prefix, row.seed) == (Outcome.CONFORMS, "k=1", 0, 3)
    assert "torch" in row.environment
    assert row.seconds > 0
    assert not row.is_alarm


@pytest.mark.parametrize(
    ("name", "bug", "law"),
    [("FlatDoubleShift", "flat-double-shift", "ALIGN-1"), ("AlignedShift", "aligned-shift", "ALIGN-1")],
)
def test_a_wrong_model(name: str, bug: str, law: str) -> None:
    row = row_of(name)
    assert (row.outcome, row.diagnosis) == (Outcome.FAILS, (bug,))
    assert law in row.laws
    assert row.reason.startswith(f"{law}: ")
    assert row.counterexample is not None
    assert row.is_alarm


def test_models_that_do_not_shift() -> None:
    silent, broken = row_of("Unshifted"), row_of("UnshiftedAgainstItsWord")
    assert (silent.outcome, silent.documentation) == (Outcome.UNSHIFTED, Documentation.BY)
    assert (broken.outcome, broken.documentation) == (Outcome.UNSHIFTED, Documentation.AGAINST)
    assert broken.sentence == "Note that the labels **are shifted** inside the model."
    assert broken.is_alarm
    assert not silent.is_alarm


@pytest.mark.parametrize(
    ("name", "outcome", "told"),
    [
        ("OfSound", Outcome.NO_PAIRS, "its rows of logits are not the positions of labels"),
        ("ReadsItsLabels", Outcome.NOT_JUDGED, "its labels are its inputs without a shift"),
        ("Raises", Outcome.FAILS, "not today"),
        ("RaisesInBackward", Outcome.NOT_JUDGED, "put me in training mode"),
        ("WithoutLogits", Outcome.FAILS, "without logits"),
        ("cross_entropy", Outcome.NOT_JUDGED, "not a model"),
        ("OfOtherLogits", Outcome.NOT_JUDGED, "its loss is made of other logits than it returns"),
        ("Absent", Outcome.NOT_JUDGED, "no attribute"),
    ],
)
def test_what_is_no_model(name: str, outcome: Outcome, told: str) -> None:
    row = row_of(name)
    assert row.outcome is outcome
    assert told in row.reason
