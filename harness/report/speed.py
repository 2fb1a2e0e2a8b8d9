"""Speed trials for people in the terminal, and as JSON. The schema is ``speed.schema.json`` beside this file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..speed.decision import Interval, Outcome
from ..speed.result import Grade, Trial, overall

SCHEMA = Path(__file__).with_name("speed.schema.json")
VERSION = 1

_COLOUR = {Grade.PASSES: "green", Grade.FAILS: "red", Grade.INCONCLUSIVE: "yellow", Grade.ERROR: "yellow"}
_SAID = {
    Grade.PASSES: "PASSES",
    Grade.FAILS: "FAILS",
    Grade.INCONCLUSIVE: "INCONCLUSIVE",
    Grade.ERROR: "COULD NOT BE MEASURED",
}


def as_json(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the whole run as plain data."""
    return {
        "schema": VERSION,
        "shiftproof": version("shiftproof"),
        "grade": str(overall(trials)),
        "trials": [trial.to_json() for trial in trials],
    }


def render(trial: Trial) -> RenderableType:
    """Render one trial: its grade, its times, the other measurements, and what is wrong with it."""
    grade_text = "MEASURED" if trial.grade is Grade.PASSES and not trial.gate.asks else _SAID[trial.grade]
    parts: list[RenderableType] = [
        Text.assemble(
            (f"{trial.candidate} against {trial.against}, {trial.spec}: ", "bold"),
            (grade_text, f"bold {_COLOUR[trial.grade]}"),
        ),
        Text(
            f"  {trial.shape}, {trial.dtype}, {trial.device} {trial.device_name}; {trial.clock}; {trial.seconds:.0f} s"
        ),
    ]
    if trial.problem:
        parts.append(Text(f"  {trial.problem}", style="bold"))
    if trial.times:
        parts.append(_times(trial))
    parts += [Text(f"  {line}") for line in _lines(trial)]
    parts += [Text(f"  caught: {name}: {observation}", style="bold red") for name, observation in trial.cheats]
    return Group(*parts, Text(""))


def _times(trial: Trial) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 1), header_style="bold")
    for column in ("pass", "candidate", "rival", "ratio", "between", "pairs", "verdict"):
        table.add_column(
            column, justify="left" if column in ("pass", "verdict") else "right", no_wrap=column != "between"
        )
    for times in trial.times:
        ratio = times.ratio
        table.add_row(
            times.part,
            _seconds(times.candidate),
            _seconds(times.rival),
            _ratio(ratio.ratio),
            f"{_ratio(ratio.low)} and {_ratio(ratio.high)}",
            str(ratio.pairs),
            escape(str(ratio.outcome)),
            style="bold" if times.part == trial.gate.part else "",
        )
    return table


def _lines(trial: Trial) -> list[str]:
    lines = []
    gated = trial.of(trial.gate.part)
    if trial.gate.max_slowdown is not None and gated is not None:
        answer = gated.ratio.against(trial.gate.max_slowdown)
        lines.append(f"slowdown allowed {trial.gate.max_slowdown:g}: {_ANSWERED[answer]}")
    if trial.memory is not None and trial.memory.candidate is not None and trial.memory.rival is not None:
        mine, theirs, logits = (
            each / 2**20 for each in (trial.memory.candidate, trial.memory.rival, trial.memory.logits)
        )
        line = f"peak memory {mine:,.0f} MiB, rival {theirs:,.0f} MiB (logits {logits:,.0f} MiB)"
        if trial.gate.max_memory is not None and (ratio := trial.memory.ratio) is not None:
            line += f"; allowed {trial.gate.max_memory:g} times the rival's: "
            line += _ANSWERED[Outcome.SLOWER if ratio > trial.gate.max_memory else Outcome.FASTER]
        lines.append(line)
    both = trial.of("both")
    if trial.traffic is not None and both is not None and trial.traffic.copied > 0:
        mine, theirs = (100 * trial.traffic.share(seconds) for seconds in (both.candidate, both.rival))
        lines.append(
            f"{trial.traffic.needed / 2**20:,.0f} MiB must move: {mine:.0f}% of the speed of a copy "
            f"({trial.traffic.copied / 1e9:.1f} GB/s), rival {theirs:.0f}%"
        )
    for grown in trial.growth:
        line = f"time grows as {grown.axis}^{grown.exponent:.2f}, rival's as {grown.axis}^{grown.rival:.2f}"
        lines.append(line + (f": QUADRATIC in {grown.axis}" if grown.is_quadratic else ""))
    if trial.self_test is not None:
        lines.append(_self_test(trial.self_test))
    return lines


_ANSWERED = {Outcome.FASTER: "kept", Outcome.SLOWER: "exceeded", Outcome.INCONCLUSIVE: "undecided"}


def _self_test(found: Interval) -> str:
    line = (
        f"self-test, the rival over itself: {_ratio(found.ratio)}, between {_ratio(found.low)} and {_ratio(found.high)}"
    )
    if found.outcome is not Outcome.INCONCLUSIVE:
        line += f": {found.outcome} than itself, so do not trust any time of this run"
    return line


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else "–"
