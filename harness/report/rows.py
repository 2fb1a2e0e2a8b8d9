"""Several candidates: a row for each as soon as it is judged, and what the whole run comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from ..results import CandidateResult, Overall
from .events import Entry, RunFinished
from .fitting import cut, fit, in_words, shorter, wrapped
from .verdict import (
    COLOUR,
    SAID,
    as_named,
    bugs,
    count_of_limits,
    exceptions,
    failing_should,
    limits,
    reason,
    replay,
    short_dtypes,
    worst_law,
)

_CASES, _SECONDS = 5, 5
_GAP = "  "
_REMARKS, _COVERED = 14, 3  # lines on what limits those that conform, and on what they were judged at

_COUNTED = {
    Overall.CONFORMS: ("conforms", "conform"),
    Overall.FAILS: ("fails", "fail"),
    Overall.INCONCLUSIVE: ("is inconclusive", "are inconclusive"),
    Overall.PARTIAL: ("was judged in part", "were judged in part"),
    Overall.VALUES_ONLY: ("was judged by values only", "were judged by values only"),
    Overall.ERROR: ("could not be judged", "could not be judged"),
}


class Rows:
    """The table of a run. Its columns are as wide as the plan asks for, so rows can be printed one by one."""

    def __init__(self, entries: Sequence[Entry], width: int) -> None:
        self.width = width
        self.devices = tuple(dict.fromkeys(entry.device for entry in entries))
        self._name = max((len(entry.candidate) for entry in entries), default=0)
        self._spec = max((len(entry.spec or "–") for entry in entries), default=0)
        self._device = max(map(len, self.devices), default=0) if len(self.devices) > 1 else 0
        self._dtypes = max((len(short_dtypes(entry.dtypes)) for entry in entries), default=0)

    def heading(self) -> Text:
        """The names of the columns."""
        where = f" on {self.devices[0]}" if len(self.devices) == 1 else ""
        return _line(self._left("candidate", "spec", "device", "dtypes", "cases", "s") + f"verdict{where}", "dim")

    def row(self, result: CandidateResult) -> Text:
        """One candidate. Names are never broken or cut: a row that is too long is longer than the others."""
        text = self._row(result)
        line = _line(text)
        start = len(self._of(result))
        if result.expect == "fails" and result.as_expected:
            line.stylize("dim", start)
        else:
            line.stylize(COLOUR[result.verdict], start)
        return line

    def remark(self, result: CandidateResult) -> str:
        """What the row of a candidate that conforms had no room for, or ""."""
        said = "".join(part[0] for part in _remarks(result))
        if result.verdict is not Overall.CONFORMS or not said or self._row(result).endswith(said):
            return ""
        return f"{result.candidate}: {said.removeprefix(', ').removeprefix('; ')}"

    def _row(self, result: CandidateResult) -> str:
        left = self._of(result)
        return left + fit(_verdict(result, self.width - len(left)), self.width - len(left))

    def _of(self, result: CandidateResult) -> str:
        cases, seconds = str(result.cases), f"{result.seconds:.1f}"
        dtypes = short_dtypes(result.dtypes)
        return self._left(result.candidate, result.spec or "–", result.device, dtypes, cases, seconds)

    def _left(self, name: str, spec: str, device: str, dtypes: str, cases: str, seconds: str) -> str:
        where = [device.ljust(self._device)] if self._device else []
        cells = [name.ljust(self._name), spec.ljust(self._spec), *where, dtypes.ljust(max(self._dtypes, 6))]
        return _GAP.join([*cells, cases.rjust(_CASES), seconds.rjust(_SECONDS), ""])


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def _verdict(result: CandidateResult, width: int) -> list[list[str]]:
    """Return the parts of the last column, each with its forms."""
    if result.expect == "fails" and result.as_expected:
        named = bugs(result)
        if not named:
            return [["fails as expected"]]
        return [[f"fails as expected: {named}", f"expected: {named}"]]
    wrong = f"; expected to fail{as_named(result)}" if result.expect == "fails" else ""
    if result.verdict is Overall.CONFORMS:
        return [[f"conforms{wrong}"], *_remarks(result)]
    if result.diagnosis:
        return [[f"FAILS: {bugs(result)}{wrong}"]]
    said = "FAILS" if result.verdict is Overall.FAILS else SAID[result.verdict]
    why = f": {reason(result)}" if reason(result) else ""
    return [[said], [why, cut(why, max(width - len(said) - len(wrong), 16), "…")], [wrong]]


def _remarks(result: CandidateResult) -> list[list[str]]:
    """Return what limits a CONFORMS, each part with its forms."""
    should = failing_should(result)
    known = limits(result)
    return [
        exceptions(result),
        [*(f"; {form}" for form in known[:1]), f"; {count_of_limits(result)}", "…"] if known else [""],
        [*(f"; {form}" for form in shorter(should, "fails SHOULD ", f"{len(should)} SHOULD fail")), "…"]
        if should
        else [""],
    ]


def ending(run: RunFinished, rows: Rows) -> list[Text]:
    """Return what is said after all rows: what limits those that conform, and again each that is not as expected."""
    passed = [result for result in run.results if result.verdict is Overall.CONFORMS]
    said = [remark for result in passed if (remark := rows.remark(result))]
    if len(said) > _REMARKS:
        said = [*said[: _REMARKS - 1], f"… and {len(said) - _REMARKS + 1} more of these (-v shows all)"]
    lines = [_line(cut(f"  {text}", rows.width), "yellow") for text in said]
    lines += [_line(text, "dim") for text in _covers(passed, rows.width)]
    for result in run.results:
        if not result.as_expected:
            lines.append(_again(result, rows.width))
    return [_line(""), *lines] if lines else []


def _covers(passed: Sequence[CandidateResult], width: int) -> list[str]:
    """Return the sizes and states at which those that conform were judged, in a few lines."""
    largest = [result.coverage.largest for result in passed if result.coverage is not None]
    axes = dict.fromkeys(axis for each in largest for axis in each)
    sizes = " ".join(f"{axis}={_span([each[axis] for each in largest if axis in each])}" for axis in axes)
    counts = Counter(mode for result in passed for mode in result.modes)
    states = [mode if count == len(passed) else f"{mode} ({count} of {len(passed)})" for mode, count in counts.items()]
    said = [f"up to {sizes}"] if sizes else []
    said += [f"under {', '.join(states)}"] if states else []
    return (
        wrapped(f"those that conform were judged {', '.join(said)}; -v says more of each", width, 2, _COVERED)
        if said
        else []
    )


def _span(sizes: Sequence[int]) -> str:
    least, most = min(sizes), max(sizes)
    return str(most) if least == most else f"{least}…{most}"


def _again(result: CandidateResult, width: int) -> Text:
    who = [f"  {result.candidate} against {result.spec}: ", f"  {result.candidate}: "]
    wrong = f", expected to fail{as_named(result)}" if result.expect == "fails" else ""
    again = f"; {replay(result)}" if replay(result) else ""
    worst = worst_law(result)
    why = [""] if result.verdict is Overall.CONFORMS or not reason(result) else [f": {reason(result)}"]
    why += [f": {worst.id}"] if worst is not None and not result.diagnosis else []
    text = _line(fit([who, [SAID[result.verdict]], why, [wrong], [again]], width))
    text.highlight_words([SAID[result.verdict]], COLOUR[result.verdict])
    return text


def totals(run: RunFinished) -> Text:
    """Return the last line: how many are as expected, the verdicts, and what it took."""
    wrong = [result for result in run.results if not result.as_expected]
    known = any(result.expect == "fails" for result in run.results)
    if wrong:
        failed = any(result.verdict is Overall.FAILS for result in wrong)
        text = "are not as expected" if known else "do not conform" if failed else "are not known to conform"
        if failed and not known:
            wrong = [result for result in wrong if result.verdict is Overall.FAILS]
        said, style = f"{len(wrong)} of {len(run.results)} {text}", "bold red"
    else:
        said, style = f"all {len(run.results)} {'are as expected' if known else 'conform'}", "bold green"
    counts = Counter(result.verdict for result in run.results)
    each = [f"{count} {_COUNTED[verdict][count > 1]}" for verdict in Overall if (count := counts[verdict])]
    split = f": {in_words(each)}" if len(each) > 1 or known else ""
    cases = sum(result.cases for result in run.results)
    line = _line(said, style)
    return line.append(f"{split} · {cases} cases in {run.seconds:.1f} s", style="not bold default")
