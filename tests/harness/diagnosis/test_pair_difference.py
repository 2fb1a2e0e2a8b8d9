"""How a loss without a known bug differs from the spec: the pairs, the weights, and the value."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.diagnosis.evidence import Evidence
from shiftproof.harness.diagnosis.pair_difference import value_off

BOUND = 1e-6


def evidence_of(pairs: list[tuple[float, float]]) -> list[Evidence]:
    """Cases with these observed and right values."""
    return [
        cast(
            "Evidence",
            SimpleNamespace(
                seen=SimpleNamespace(value=value),
                case=SimpleNamespace(oracle=SimpleNamespace(value=right), pairing=SimpleNamespace(pairs=(1,))),
            ),
        )
        for value, right in pairs
    ]


TRIAL: Any = cast("Trial", SimpleNamespace(bounds=lambda observed: SimpleNamespace(value=BOUND)))
RIGHT = [1.5, 2.25, 3.0, 0.75, 2.0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda right: right + 0.6931471805599453, "0.693147 = log 2 too high"),
        (lambda right: right - 1.0986122886681098, "1.09861 = log 3 too low"),
        (lambda right: right + 0.25, "0.25 too high"),
        (lambda right: right * 0.5, "0.5 times what it should be"),
        (lambda right: right + right**2, ""),
        (lambda right: right, ""),
    ],
)
def test_a_value_that_is_off_in_the_same_way_everywhere(wrong: Any, said: str) -> None:
    assert value_off(TRIAL, evidence_of([(wrong(right), right) for right in RIGHT])) == said


def test_one_right_case_or_too_few_show_no_rule() -> None:
    off = [(right + 0.25, right) for right in RIGHT]
    assert value_off(TRIAL, evidence_of([*off, (1.0, 1.0)])) == ""
    assert value_off(TRIAL, evidence_of(off[:3])) == ""
