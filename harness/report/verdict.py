"""The verdict on one candidate: one line, and one more on what the verdict covers."""

from __future__ import annotations

from rich.text import Text

from ..results import CandidateResult, LawResult, Level, Overall, Verdict
from .fitting import cut, fit, shorter

COLOUR = {
    Overall.CONFORMS: "green",
    Overall.FAILS: "red",
    Overall.INCONCLUSIVE: "yellow",
    Overall.PARTIAL: "yellow",
    Overall.VALUES_ONLY: "yellow",
    Overall.ERROR: "yellow",
}
SAID = {
    Overall.CONFORMS: "CONFORMS",
    Overall.FAILS: "DOES NOT CONFORM",
    Overall.INCONCLUSIVE: "INCONCLUSIVE",
    Overall.PARTIAL: "PARTIAL",
    Overall.VALUES_ONLY: "VALUES ONLY",
    Overall.ERROR: "COULD NOT BE JUDGED",
}
_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64", "int64": "–"}
INDENT = 2  # columns, of the lines below that of the verdict
_SHORT = 60  # columns of a message that stands for a whole report


def headline(result: CandidateResult, width: int) -> Text:
    """Return who was judged, against what, the verdict, where, in how many cases and in how many seconds."""
    facts = "" if facts_follow(result, width) else f" · {facts_of(result)}"
    return _styled(result, _head(result, width - len(facts)) + facts)


def facts_follow(result: CandidateResult, width: int) -> bool:
    """Whether the line of the verdict is so long that device, cases and seconds are on the next line."""
    longest = _who(result) + SAID[result.verdict] + exceptions(result)[0] + _expected(result)
    return len(f"{longest} · {facts_of(result)}") > width


def in_one_line(result: CandidateResult, width: int) -> Text:
    """Return the whole report of a candidate on one line."""
    why = f" ({why})" if (why := reason(result)) and result.verdict is not Overall.CONFORMS else ""
    again = f" · {again}" if (again := replay(result)) else ""
    after = f"{why} · {facts_of(result)}{again}"
    return _styled(result, _head(result, width - len(after)) + after)


def covered(result: CandidateResult, width: int, *, has_limits: bool = True) -> str:
    """Return what the verdict covers: limits, sizes and states of a call; and SHOULD laws that fail.

    It is one line, which fits a console of ``width`` columns if it is indented. Where there is no room for the limits,
    they are counted; ``has_limits`` leaves them out.
    """
    largest = result.coverage.largest if result.coverage is not None else {}
    sizes = " ".join(f"{axis}={size}" for axis, size in largest.items())
    parts = [
        [facts_of(result), facts_of(result, short_dtypes(result.dtypes))] if facts_follow(result, width) else [],
        limits(result) if has_limits else [],
        shorter(failing_should(result), "SHOULD laws that fail: ", f"{len(failing_should(result))} SHOULD fail"),
        [f"up to {sizes}"] if sizes else [],
        shorter(result.modes, "under ", f"under {len(result.modes)} states"),
    ]
    said = [forms for forms in parts if forms]
    joined = [said[0], *([f"; {form}" for form in forms] for forms in said[1:])] if said else [[""]]
    return fit(joined, width - INDENT)


def _head(result: CandidateResult, width: int) -> str:
    return fit([[_who(result) + SAID[result.verdict]], exceptions(result), [_expected(result)]], width)


def _styled(result: CandidateResult, line: str) -> Text:
    text = Text(line, no_wrap=True, overflow="ignore")
    text.stylize("bold", 0, len(result.candidate))
    start = len(_who(result))
    text.stylize(f"bold {COLOUR[result.verdict]}", start, start + len(SAID[result.verdict]))
    return text


def _who(result: CandidateResult) -> str:
    return f"{result.candidate} against {result.spec}: " if result.spec else f"{result.candidate}: "


def _expected(result: CandidateResult) -> str:
    if result.expect != "fails":
        return ""
    if result.as_expected:
        return f" as {bugs(result)} (as expected)" if bugs(result) else " (as expected)"
    return f" (expected to fail{as_named(result)})"


def as_named(result: CandidateResult) -> str:
    """Return the name under which the declaration expects a failure, after "as", or ""."""
    return f" as {result.expected_diagnosis}" if result.expected_diagnosis else ""


def exceptions(result: CandidateResult) -> list[str]:
    """Return what of the candidate's own code the verdict does not cover: the longest form first, or [""]."""
    found = result.branches
    if result.verdict is not Overall.CONFORMS or found is None or not found.exceptions:
        return [""]
    named = found.exceptions
    places = ", ".join(dict.fromkeys(branch.place for branch in found.never))
    others = [each.partition(": ")[0] for each in named if each not in map(str, found.never)]
    short = "; ".join([*([places] if places else []), *others])
    count = "1 part" if len(named) == 1 else f"{len(named)} parts"
    lines = dict.fromkeys(branch.line for branch in found.never)
    one_file = len({branch.place.partition(":")[0] for branch in found.never}) == 1 and not others
    by_line = f", except line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}"
    counted = [f", except {count} of its code", f", except {count}"]
    return [f", except {found.in_short}", f", except {short}", *([by_line] if one_file else []), *counted]


def limits(result: CandidateResult) -> list[str]:
    """Return the limits of a verdict that are declared or left out: the longest form first. None is []."""
    if not result.scope:
        return []
    short = "; ".join(cut(each, _SHORT, "…") for each in result.scope)
    return ["; ".join(result.scope), short, count_of_limits(result)]


def count_of_limits(result: CandidateResult) -> str:
    """Return how many limits the verdict has, where there is no room for what they are."""
    return "1 limit" if len(result.scope) == 1 else f"{len(result.scope)} limits"


def facts_of(result: CandidateResult, dtypes: str = "") -> str:
    """Return the device, the dtypes, the cases and the seconds. A label builder has no dtypes."""
    named = "" if result.dtypes == ("int64",) else f" · {dtypes or ', '.join(result.dtypes)}"
    return f"{result.device}{named} · {result.cases} cases · {result.seconds:.1f} s"


def short_dtypes(names: tuple[str, ...]) -> str:
    """Return dtypes in few columns. That of a label builder, which has no choice, is a dash."""
    return "+".join(_DTYPES.get(name, name) for name in names)


def failing_should(result: CandidateResult) -> list[str]:
    """Return the ids of the SHOULD laws that fail, and not only because another law fails."""
    return [law.id for law in result.laws if law.level is Level.SHOULD and law.verdict.is_failure and not law.follows]


def bugs(result: CandidateResult) -> str:
    """Return the names of its bugs, or ""."""
    return " and ".join(bug.mutant for bug in result.diagnosis)


def reason(result: CandidateResult) -> str:
    """Return the bug's name, or a short message, or ""."""
    if result.diagnosis:
        return bugs(result)
    worst = worst_law(result)
    if worst is not None and result.verdict is Overall.FAILS:
        return f"{worst.id}: {cut(worst.message, _SHORT, '…')}"
    return cut(result.message, _SHORT, "…") or (f"{len(result.gaps)} cells not judged" if result.gaps else "")


def replay(result: CandidateResult) -> str:
    """Return the command that asks the smallest counterexample again, or ""."""
    worst = worst_law(result)
    found = worst.counterexample if worst is not None else None
    if found is None:
        return ""
    return f'shiftproof.replay("{found.replay}", …)' if result.is_nameless else f"shiftproof replay {found.replay}"


def worst_law(result: CandidateResult) -> LawResult | None:
    """Return the first MUST law that fails."""
    return next((law for law in result.laws if law.level is Level.MUST and law.verdict.is_failure), None)


_OPEN = {
    Verdict.REFUSED: "refused",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.VACUOUS: "of which no case proved anything",
    Verdict.TIMEOUT: "past their deadline",
}


def open_laws(result: CandidateResult) -> list[str]:
    """Return a sentence for each reason that leaves a verdict open, with the ids of its laws."""
    found = []
    for verdict, words in _OPEN.items():
        ids = [law.id for law in result.laws if law.level is Level.MUST and law.verdict is verdict]
        found += [f"MUST laws {words}: {', '.join(ids)}"] if ids else []
    unjudged = [law.id for law in result.laws if law.verdict is Verdict.UNJUDGED]
    if unjudged:
        whole = len(unjudged) == len(result.laws)
        found.append(f"not judged: {f'all {len(unjudged)} laws' if whole else ', '.join(unjudged)}")
    return found
