"""What is wrong with a candidate: the picture, the smallest counterexample, the bug's name, and how to see it again."""

from __future__ import annotations

from ..results import CandidateResult, Difference, LawResult, Level, NamedBug, Overall
from .fitting import MORE, cut, wrapped
from .verdict import failing_should, open_laws, replay, worst_law

_ROWS, _LABELS = 4, 24  # labels beside a picture
_DIFFERENCE = 10  # lines, where all is to fit on one screen

Line = tuple[str, str]
"""A line and its style."""


def failure(result: CandidateResult, width: int, most: int | None) -> list[Line]:
    """Return what is wrong, in at most ``most`` lines. None cuts nothing."""
    worst = worst_law(result)
    is_cut = most is not None
    after: list[Line] = []
    if worst is not None:
        after += _counterexample(worst, result.dtypes, width, is_cut)
        after += _names(result, width, is_cut)
        after += [(line, "") for line in _others(result, worst, width, is_cut)]
        after += [(f"  again:  {replay(result)}", "")] if replay(result) else []
    room = most - len(after) - 1 if most is not None else None
    picture = _picture(result, width, room)
    return [*picture, *([("", "")] if picture else []), *after]


def _picture(result: CandidateResult, width: int, most: int | None) -> list[Line]:
    if result.verdict is not Overall.FAILS:
        return []
    drawn: list[Line] = []
    pictures = []
    if result.pairing is not None:
        pictures.append(
            (f"pairing of {result.pairing.of}, labels {few(result.pairing.labels)}", result.pairing.drawing)
        )
    if result.built is not None:
        pictures.append((f"built under {result.built.of}", result.built.drawing))
    for title, drawing in pictures:
        lines = drawing.splitlines()
        room = None if most is None else most - len(drawn) - 1
        if room is not None and len(lines) > room:
            lines = [*lines[: room - 2], MORE, lines[-1]]  # the last line is the legend
        drawn.append((cut(f"  {title}", width, "…"), "bold"))
        drawn += [(cut(f"    {line}".rstrip(), width, "…"), "") for line in lines]
    return drawn


def few(rows: list[list[int]]) -> str:
    """Return labels as text, of a long case only the first ones."""
    texts = [", ".join(map(str, row[:_LABELS])) + (", …" if len(row) > _LABELS else "") for row in rows[:_ROWS]]
    more = ["…"] if len(rows) > _ROWS else []
    return f"[{', '.join([*(f'[{text}]' for text in texts), *more])}]"


def _counterexample(law: LawResult, dtypes: tuple[str, ...], width: int, is_cut: bool) -> list[Line]:
    recipe = law.counterexample.recipe if law.counterexample is not None else {}
    fields = ", ".join(f"{name}={_value(value)}" for name, value in recipe.items())
    lines = wrapped(fields, width, most=2 if is_cut else None) if recipe else []
    lines += wrapped(law.message, width, most=3 if is_cut else None)
    dtype = recipe.get("dtype", dtypes[0])
    if dtype != dtypes[0]:
        hint = f"If it is not meant for {dtype}, judge it with --dtype {dtypes[0]}"
        lines.append(f"    No simpler case in {dtypes[0]} fails in this way. {hint}.")
    return [(f"  smallest counterexample ({law.id})", "bold"), *((line, "") for line in lines)]


def _value(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(result: CandidateResult, width: int, is_cut: bool) -> list[Line]:
    if not result.diagnosis:
        return _nameless(result.difference, result.pairing is not None, width, is_cut)
    found: list[Line] = []
    several = len(result.diagnosis) > 1
    if several:
        found.append(("  no single bug explains this; these two together explain every case", "bold"))
    for bug in result.diagnosis:
        found += _named(bug, several, width, is_cut)
    return found


def _named(bug: NamedBug, several: bool, width: int, is_cut: bool) -> list[Line]:
    detail = f" ({bug.detail})" if bug.detail else ""
    called = "one of them is called" if several else "the bug is called"
    most = None if not is_cut else 1 if several else 2
    lines = wrapped(bug.formula, width, most=most) + wrapped(f"it happened in: {bug.seen}", width, most=most)
    if bug.also:
        lines += wrapped(f"it gives the same results as: {', '.join(bug.also)}", width, most=1 if is_cut else None)
    title = f"  {called} {bug.mutant}{detail}"
    return [(cut(title, width) if is_cut else title, "bold red"), *((line, "") for line in lines)]


def _nameless(difference: Difference | None, drawn: bool, width: int, is_cut: bool) -> list[Line]:
    if difference is None:
        return [("  no known bug: see the findings above", "bold")]
    shown = "the pairing and its" if drawn else "the"
    where = f", {difference.where}" if difference.where else ""
    moved = ", ".join(f"{many} to {_where(where)}" for where, many in difference.moved.items())
    counts = f"{difference.missing} missing, {difference.added} added, {sum(difference.moved.values())} moved"
    said = [f"of {difference.pairs} pairs on {difference.cases} cases: {counts}" + (f" ({moved})" if moved else "")]
    if difference.factors is None:
        said.append(f"all {difference.weights} weights of right pairs are right")
    else:
        least, most = (f"{factor:.3g}" for factor in difference.factors)
        by = f"{least} times" if least == most else f"from {least} to {most} times"
        off = f"{difference.weights_off} of {difference.weights} weights of right pairs are off"
        said.append(f"{off}: {by} what they should be")
    each = 2 if is_cut else None
    lines: list[Line] = [(f"  no known bug: here is {shown} difference from the spec{where}", "bold")]
    lines += [(line, "") for text in said for line in wrapped(text, width, most=each)]
    lines += [(line, "bold") for text in difference.patterns for line in wrapped(text, width, most=each)]
    if difference.value:
        lines += [(line, "") for line in wrapped(f"on every case the loss is {difference.value}", width, most=each)]
    if is_cut and len(lines) > _DIFFERENCE:
        lines = [*lines[: _DIFFERENCE - 1], (f"    {MORE}", "")]
    return lines


def _where(moved: str) -> str:
    return f"the label {moved}" if moved[0] in "+-" else f"a label {moved}" if moved == "off the batch" else moved


def _others(result: CandidateResult, worst: LawResult, width: int, is_cut: bool) -> list[str]:
    """Return which other laws fail, and which MUST laws were not judged."""
    failing = [law for law in result.laws if law.verdict.is_failure and law.level is Level.MUST and law is not worst]
    own = [law.id for law in failing if not law.follows]
    following = [law for law in failing if law.follows]
    should = failing_should(result)
    said = [f"other MUST laws that fail: {', '.join(own)}"] if own else []
    if following:
        said.append(f"{len(following)} more MUST laws fail because {following[0].follows} fails")
    said += [f"SHOULD laws that fail: {', '.join(should)}"] if should else []
    most = 2 if is_cut else None
    joined = wrapped("; ".join(said), width, indent=2, most=most) if said else []
    undecided = open_laws(result)
    return joined + (wrapped("; ".join(undecided), width, indent=2, most=most) if undecided else [])
