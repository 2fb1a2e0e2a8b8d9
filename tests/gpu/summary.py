"""What was found as one page of Markdown, for docs/ as it is: gpu.md."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .findings import Finding, Progress, Result
from .parts import PARTS

DRY = (
    "**A dry run on a CPU, which stands in for the GPU: it shows that the script runs to its end. "
    "Its figures say nothing of a GPU.**"
)
_SHOWN = (Result.WRONG, Result.NOT_RUN)


class Verdict:
    """How a part ended, in words."""

    PASSED, WRONG, NOT_RUN = "passed", "WRONG", "could not be run"


@dataclass(frozen=True)
class Machine:
    """What the preflight said, and the driver's version."""

    said: Mapping[str, Any]
    driver: str

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.said["packages"].items())
        cuda = f", CUDA {self.said['cuda']}" if self.said["cuda"] else ""
        driver = f", driver {self.driver}" if self.driver else ""
        memory = f"{self.said['memory'] / 2**30:.0f} GiB"
        return f"{self.said['device']}, {memory}{driver}{cuda}; Python {self.said['python']}, {packages}"


def verdict(progress: Progress) -> str:
    """How a part ended. What did not get to its end has not passed, whatever it has found so far."""
    results = [finding.result for finding in progress.found]
    done = len({finding.name for finding in progress.found})
    incomplete = progress.ended != "exit 0" or done < len(progress.planned)
    told = []
    if Result.WRONG in results:
        told.append(f"{Verdict.WRONG}: {results.count(Result.WRONG)} of {done}")
    if not progress.ended:
        told.append(
            "not begun" if not progress.planned and not done else f"under way, {done} of {len(progress.planned)}"
        )
    elif incomplete:
        told.append(f"{progress.ended} after {done} of {len(progress.planned) or 'an unknown number'}")
    if Result.NOT_RUN in results:
        told.append(f"{results.count(Result.NOT_RUN)} {Verdict.NOT_RUN}")
    if not told and Result.PASSED not in results:
        told.append("nothing was there to be run")
    return "; ".join(told) or Verdict.PASSED


def exit_code(parts: Iterable[Progress]) -> int:
    """1 where something that was judged is wrong; else 3 where something could not be run or had no time; else 0."""
    verdicts = [verdict(progress) for progress in parts]
    if any(told.startswith(Verdict.WRONG) for told in verdicts):
        return 1
    return 0 if all(told == Verdict.PASSED for told in verdicts) else 3


def page(machine: Machine, parts: Mapping[str, Progress], *, dry: bool, minutes: float) -> str:
    """The whole page."""
    title = "# A dry run of the GPU script" if dry else "# On a GPU"
    when = time.strftime("%Y-%m-%d")
    lines = [title, "", *([DRY, ""] if dry else []), f"{machine}; {when}, within {minutes:g} minutes.", ""]
    lines += _table(
        ("part", "result", "passed", "skipped", "seconds"),
        [
            (
                f"{name}: {PARTS[name].about}",
                verdict(progress),
                str(_count(progress, Result.PASSED)),
                str(_count(progress, Result.SKIPPED)),
                f"{progress.seconds:.0f}",
            )
            for name, progress in parts.items()
        ],
    )
    for name, progress in parts.items():
        lines += _told(f"## What is wrong or could not be run: {name}", _of(progress, _SHOWN))
    for name, progress in parts.items():
        lines += _told(f"## Skipped: {name}", _of(progress, (Result.SKIPPED,)))
    measured = [finding.figures for progress in parts.values() for finding in progress.found if finding.figures]
    return "\n".join([*lines, *_figures(measured)]) + "\n"


def _count(progress: Progress, result: Result) -> int:
    return sum(finding.result is result for finding in progress.found)


def _of(progress: Progress, results: tuple[Result, ...]) -> list[Finding]:
    return [finding for finding in progress.found if finding.result in results]


def _told(title: str, findings: Sequence[Finding]) -> list[str]:
    """Findings that say the same are one line."""
    by_said: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        by_said.setdefault((finding.result, finding.said), []).append(finding.name)
    lines = [f"- {result}: {', '.join(names)}: {said}" for (result, said), names in by_said.items()]
    return ["", title, "", *lines] if lines else []


def _figures(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """One table for each shape and dtype: the yardstick, and who was measured in pairs with it."""
    if not measured:
        return []
    lines = [
        "",
        "## Time and memory",
        "",
        "Forward and backward, medians of the device's own time, caches flushed, in pairs with the yardstick in",
        "alternating order; every answer that was timed was found right. *Share*: of the bandwidth that a copy of the",
        "logits had between the pairs (of a layer: of the speed of its three matrix products). *× yardstick*: the",
        "ratio of the pairs' times, and its interval. *Memory*: at the worst moment, on top of the arguments, for each",
        "byte of the gradients.",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in measured:
        groups.setdefault((each["shape"], each["dtype"]), []).append(each)
    for (shape, dtype), group in groups.items():
        first = group[0]
        moved = "" if first["hidden"] else f", a copy at {2 * first['logits_bytes'] / first['limit_ms'] / 1e9:.2f} TB/s"
        layer = f" of a layer, H={first['hidden']}" if first["hidden"] else ""
        rows = [("yardstick", *_row(first, "yardstick_ms", "yardstick_peak"), "1")]
        for each in group:
            ratio = f"{each['ratio']:.2f} ({each['low']:.2f} to {each['high']:.2f})"
            rows.append((each["contender"], *_row(each, "milliseconds", "peak"), ratio))
        lines += ["", f"### {shape}{layer}, {dtype}{moved}", ""]
        lines += _table(("", "ms", "share", "memory", "× yardstick"), rows)
    return lines


def _row(each: Mapping[str, Any], milliseconds: str, peak: str) -> tuple[str, str, str]:
    memory = "–" if each[peak] is None else f"{each[peak] / each['returned_bytes']:.2f}"
    return f"{each[milliseconds]:.3f}", f"{100 * each['limit_ms'] / each[milliseconds]:.0f}%", memory


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
