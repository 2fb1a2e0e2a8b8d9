"""What a trial comes to, as data and for people."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from shiftproof.harness.report.speed import SCHEMA, as_json, render
from shiftproof.harness.speed.decision import UNKNOWN, Interval
from shiftproof.harness.speed.growth import Growth
from shiftproof.harness.speed.result import Gate, Grade, Memory, Times, Traffic, Trial, grade, overall


def interval(low: float, high: float) -> Interval:
    return Interval((low * high) ** 0.5, low, high, 40)


ALIKE = interval(0.99, 1.01)


def trial(ratio: Interval = ALIKE, self_test: Interval = ALIKE, gate: Gate = Gate(), **changes: Any) -> Trial:  # noqa: B008, RUF100
    """A trial in which everything was measured."""
    fields: dict[str, Any] = {
        "candidate": "losses.py:mine",
        "spec": "hf.causal_lm",
        "device": "cpu",
        "dtype": "float32",
        "shape": "text [B=2, S=1024, V=32000]",
        "against": "yardstick",
        "gate": gate,
        "grade": Grade.PASSES,
        "device_name": "a processor",
        "clock": "processor time",
        "times": tuple(Times(part, 0.012, 0.010, ratio) for part in ("forward", "backward", "both")),
        "self_test": self_test,
        "memory": Memory(3 << 20, 1 << 20, 1 << 20),
        "traffic": Traffic(2 << 20, 4e9),
        "growth": (Growth("T", (256, 512, 1024), 1.93, 1.02), Growth("V", (8, 16), 1.0, 1.0)),
    }
    return Trial(**{**fields, **changes})


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (trial(), Grade.PASSES),
        (trial(interval(1.2, 1.3)), Grade.PASSES),  # nothing was asked
        (trial(interval(1.02, 1.09), gate=Gate(max_slowdown=1.1)), Grade.PASSES),
        (trial(interval(1.02, 1.19), gate=Gate(max_slowdown=1.1)), Grade.INCONCLUSIVE),
        (trial(interval(1.12, 1.19), gate=Gate(max_slowdown=1.1)), Grade.FAILS),
        (trial(gate=Gate(max_memory=3.0)), Grade.PASSES),
        (trial(gate=Gate(max_memory=2.9)), Grade.FAILS),
        (trial(gate=Gate(max_memory=2.9), memory=Memory(None, None, 1)), Grade.INCONCLUSIVE),
        (trial(gate=Gate(max_memory=2.9), memory=Memory(1, 0, 1)), Grade.FAILS),
        (trial(interval(1.02, 1.19), gate=Gate(1.1, 1.2)), Grade.FAILS),  # memory alone is enough
        (trial(self_test=interval(1.02, 1.05), gate=Gate(max_slowdown=1.1)), Grade.INCONCLUSIVE),
        (trial(UNKNOWN), Grade.INCONCLUSIVE),
        (trial(times=()), Grade.INCONCLUSIVE),
        (trial(cheats=(("stale-answer", "seen"),)), Grade.FAILS),
        (trial(problem="it is wrong"), Grade.FAILS),
    ],
)
def test_grades(of: Trial, expected: Grade) -> None:
    assert grade(of) is expected


def test_the_gate_is_about_the_part_that_was_named() -> None:
    times = (Times("forward", 1.0, 2.0, interval(0.4, 0.6)), Times("both", 2.0, 2.0, ALIKE))
    assert grade(trial(times=times, gate=Gate(0.8, None, "forward"))) is Grade.PASSES
    assert grade(trial(times=times, gate=Gate(0.8, None, "both"))) is Grade.FAILS


@pytest.mark.parametrize(
    ("grades", "worst"),
    [
        ([Grade.PASSES, Grade.PASSES], Grade.PASSES),
        ([Grade.PASSES, Grade.INCONCLUSIVE], Grade.INCONCLUSIVE),
        ([Grade.INCONCLUSIVE, Grade.ERROR], Grade.ERROR),
        ([Grade.ERROR, Grade.FAILS], Grade.FAILS),
        ([], Grade.ERROR),
    ],
)
def test_the_worst_grade_counts(grades: list[Grade], worst: Grade) -> None:
    assert overall([replace(trial(), grade=each) for each in grades]) is worst


@pytest.mark.parametrize(
    "of",
    [
        trial(),
        trial(UNKNOWN, UNKNOWN, memory=Memory(None, 1, 1), traffic=Traffic(1, math.nan)),
        trial(times=(), self_test=None, memory=None, traffic=None, growth=(), problem="it raised ValueError"),
        trial(cheats=(("stale-answer", "seen"),), growth=(Growth("K", (8,), math.nan, math.nan),)),
    ],
)
def test_json_is_as_the_schema_has_it(of: Trial) -> None:
    import json

    report = json.loads(json.dumps(as_json([of]), allow_nan=False))
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_json_holds_what_was_found() -> None:
    (found,) = as_json([trial()])["trials"]
    assert found["memory"]["ratio"] == 3.0
    assert found["bandwidth"]["candidate"] == pytest.approx((2 << 20) / 0.012 / 4e9)
    assert [each["quadratic"] for each in found["scaling"]] == [True, False]


def shown(of: Trial, width: int = 160) -> str:
    console = Console(width=width, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(of))
    return console.export_text()


def test_a_report_for_people() -> None:
    text = shown(trial(interval(1.15, 1.25), gate=Gate(1.1, 1.2)))
    for said in (
        "losses.py:mine against yardstick, hf.causal_lm: PASSES",
        "1.150 and 1.250",
        "slower",
        "slowdown allowed 1.1: exceeded",
        "peak memory 3 MiB, rival 1 MiB (logits 1 MiB); allowed 1.2 times the rival's: exceeded",
        "2 MiB must move",
        "QUADRATIC in T",
        "self-test, the rival over itself: 1.000, between 0.990 and 1.010",
    ):
        assert said in text
    assert "QUADRATIC in V" not in text


def test_a_report_of_what_went_wrong() -> None:
    text = shown(trial(cheats=(("stale-answer", "it was seen before"),), grade=Grade.FAILS))
    assert "caught: stale-answer: it was seen before" in text
    assert "do not trust any time of this run" in shown(trial(self_test=interval(1.02, 1.05)))
    assert "it raised" in shown(trial(problem="it raised ValueError", times=(), grade=Grade.ERROR))


def test_without_a_gate_it_is_measured_and_not_passed() -> None:
    assert "MEASURED" in shown(trial())
    assert "PASSES" in shown(trial(gate=Gate(max_slowdown=1.1)))


def test_a_terminal_of_eighty_columns_has_every_figure() -> None:
    far = Interval(720.4, 262.862, 1976.131, 12)
    said = shown(trial(times=tuple(Times(part, 123.4, 0.0123, far) for part in ("forward", "backward", "both"))), 80)
    assert "…" not in said
    assert all(
        figure in said for figure in ("backward", "123 s", "12.3 ms", "720.400", "262.862", "1976.131", "slower")
    )
