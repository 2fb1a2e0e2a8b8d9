"""The report for people: a progress bar during the run, then the findings."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..branches import Branches
from ..judge.environments import Comparison, comparisons
from ..results import CandidateResult, Coverage, Difference, LawResult, Level, Overall, Verdict
from .console import new_console
from .events import CandidateJudged, CandidateStarted, CaseJudged, Event, LawJudged, RunFinished, RunStarted

_COLOUR = {
    Overall.CONFORMS: "green",
    Overall.FAILS: "red",
    Overall.INCONCLUSIVE: "yellow",
    Overall.PARTIAL: "yellow",
    Overall.VALUES_ONLY: "yellow",
    Overall.ERROR: "yellow",
}
_SAID = {
    Overall.CONFORMS: "CONFORMS",
    Overall.FAILS: "DOES NOT CONFORM",
    Overall.INCONCLUSIVE: "INCONCLUSIVE",
    Overall.PARTIAL: "PARTIAL",
    Overall.VALUES_ONLY: "VALUES ONLY",
    Overall.ERROR: "COULD NOT BE JUDGED",
}
_CELLS_NAMED = 2
_ROWS, _LABELS = 4, 24  # labels beside a picture


class TerminalReport:
    """Prints the seed first, shows progress if there is a terminal, and then prints each candidate's findings."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or new_console()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cases"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.done_before = 0

    def tell(self, event: Event) -> None:
        match event:
            case RunStarted():
                many = f"{len(event.candidates)} candidates, " if len(event.candidates) > 1 else ""
                self.console.print(
                    f"shiftproof {event.version} · seed {event.seed} · {many}profile {event.profile}", style="bold"
                )
                self.progress.start()
                self.task = self.progress.add_task("loading", total=event.planned or None)
            case CandidateStarted() if self.task is not None:
                self.progress.update(self.task, description=escape(event.candidate))
            case CaseJudged() if self.task is not None:
                self.progress.advance(self.task)
                self.done_before += 1
            case LawJudged() if self.task is not None:
                # A law may need fewer cases than planned. Its share of the bar counts as done all the same.
                self.progress.advance(self.task, max(event.planned - self.done_before, 0))
                self.done_before = 0
            case CandidateJudged():
                self.console.print(candidate_findings(event.result))
            case RunFinished():
                self.progress.stop()
                if len(event.results) > 1:
                    self.console.print(summary(event))
                for result in event.results:
                    for declared in result.stale:
                        text = f"{result.candidate} has a declaration that matches nothing; remove it: {declared}"
                        self.console.print(Text(text, style="bold red"))
                for compared in comparisons(event.results):
                    self.console.print(comparison(compared))
            case _:
                pass


def candidate_findings(result: CandidateResult) -> RenderableType:
    """Render all findings about one candidate."""
    lines: list[RenderableType] = [Text(), _headline(result)]
    if result.message:
        lines.append(Text(f"  {result.message}"))
    lines += [Text(f"  only {each}", style="yellow") for each in result.scope]
    if result.asked:
        lines.append(Text(f"  {_judged(result)}", style="dim"))
    failing = [law for law in result.laws if law.verdict.is_failure]
    if result.asked:
        lines.append(_laws_table(result.laws))
    worst = next((law for law in failing if law.level is Level.MUST), None)
    if worst is not None:
        lines.append(_counterexample(worst, result.dtypes))
    if result.pairing is not None and result.verdict is Overall.FAILS:
        lines.append(Text(f"\n  pairing of {result.pairing.of}, labels {_few(result.pairing.labels)}", style="bold"))
        lines.append(Text("\n".join("    " + line for line in result.pairing.drawing.splitlines())))
    if result.built is not None and result.verdict is Overall.FAILS:
        lines.append(Text(f"\n  built under {result.built.of}", style="bold"))
        lines.append(Text("\n".join("    " + line for line in result.built.drawing.splitlines())))
    if worst is not None:
        lines.append(_names(result))
        if worst.counterexample is not None:
            lines.append(Text(f"  again:  shiftproof replay {worst.counterexample.replay}"))
    if result.asked:
        lines.append(Text(f"  {_effort(result)}", style="dim"))
    if result.coverage is not None and worst is None:  # a failing law ends early, and leaves out its remaining cases
        lines.append(_coverage(result.coverage, result.gaps))
    if result.branches is not None and worst is None:
        lines.append(_branches(result.branches))
    return Group(*lines)


def _few(rows: list[list[int]]) -> str:
    """Labels as text, of a long case only the first ones."""
    texts = [", ".join(map(str, row[:_LABELS])) + (", …" if len(row) > _LABELS else "") for row in rows[:_ROWS]]
    more = ["…"] if len(rows) > _ROWS else []
    return f"[{', '.join([*(f'[{text}]' for text in texts), *more])}]"


def summary(run: RunFinished) -> RenderableType:
    """Render one row per candidate."""
    table = Table(title="\nconformance", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("candidate", "spec", "dtype", "verdict", "diagnosis", "cases", "seconds"):
        number = column in ("cases", "seconds")
        wrap = column in ("candidate", "spec", "diagnosis")
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=not wrap)
    for result in run.results:
        table.add_row(
            escape(result.candidate),
            result.spec or "–",
            "+".join(result.dtypes),
            _verdict_cell(result),
            escape(_in_short(result)),
            str(result.cases),
            f"{result.seconds:.1f}",
        )
    wrong = [result for result in run.results if not result.as_expected]
    known = any(result.expect == "fails" for result in run.results)
    if wrong:
        text = "are not as expected" if known else "do not conform"
        verdict = Text(f"{len(wrong)} of {len(run.results)} {text}", style="bold red")
    else:
        verdict = Text(f"all {len(run.results)} {'are as expected' if known else 'conform'}", style="bold green")
    cases = sum(result.cases for result in run.results)
    return Group(table, verdict, Text(f"{cases} cases in {run.seconds:.1f} s", style="dim"))


def comparison(compared: Comparison) -> RenderableType:
    """Render one candidate under several interpreters: their names, and a row for everything that differs."""
    first = compared.results[0]
    where = f"{first.device} {_in_words(first.dtypes)}, in {len(compared.results)} environments"
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for result in compared.results:
        table.add_column(escape(result.environment_name or result.candidate), overflow="fold")
    table.add_row("verdict", *(Text(str(each.verdict), style=_COLOUR[each.verdict]) for each in compared.results))
    table.add_row("diagnosis", *(escape(", ".join(names)) or "–" for names in compared.diagnoses))
    follow = {law.id for result in compared.results for law in result.laws if law.follows}
    laws = {id: cells for id, cells in compared.laws.items() if id not in follow}
    for name, cells in (*compared.versions.items(), *laws.items()):
        table.add_row(escape(name), *(escape(cell) if cell else "–" for cell in cells))
    more = Counter(cells for id, cells in compared.laws.items() if id in follow)
    for cells, count in more.items():
        table.add_row(f"{count} more", *(cell or "–" for cell in cells))
    changed = compared.changed
    text = Text(f"what changed: {', '.join(changed) or 'nothing'}", style="bold yellow" if changed else "bold green")
    return Group(Text(f"\n{first.call} against {first.spec}, {where}", style="bold"), table, text)


def _verdict_cell(result: CandidateResult) -> Text:
    text = Text(str(result.verdict), style=_COLOUR[result.verdict])
    if result.expect == "fails":
        named = f" as {result.expected_diagnosis}" if result.expected_diagnosis else ""
        text.append(", as expected" if result.as_expected else f" (expected to fail{named})")
    return text


def _in_short(result: CandidateResult) -> str:
    """Return the bug's name, or a short message, or a dash."""
    if result.diagnosis:
        return ", ".join(bug.mutant for bug in result.diagnosis)
    worst = next((law for law in result.laws if law.verdict.is_failure and law.level is Level.MUST), None)
    lacking = f"{len(result.gaps)} cells not judged" if result.gaps else ""
    message = worst.message if worst else result.message or lacking
    return message if len(message) <= 48 else f"{message[:47]}…" if message else "–"


def _headline(result: CandidateResult) -> Text:
    text = Text()
    text.append(result.candidate, style="bold")
    text.append(f" against {result.spec}: " if result.spec else ": ")
    text.append(_SAID[result.verdict], style=f"bold {_COLOUR[result.verdict]}")
    if result.verdict is Overall.CONFORMS and result.branches is not None and result.branches.in_short:
        text.append(f", except {result.branches.in_short}", style="yellow")
    if result.expect == "fails":
        text.append("  (as expected)" if result.as_expected else "  (expected to fail)")
    return text


def _judged(result: CandidateResult) -> str:
    """Describe what was judged: where, in which dtypes, up to which sizes, and in which states of a call."""
    dtypes = "" if result.dtypes == ("int64",) else f" in {_in_words(result.dtypes)}"
    largest = result.coverage.largest if result.coverage is not None else {}
    sizes = f", up to {' '.join(f'{axis}={size}' for axis, size in largest.items())}" if largest else ""
    modes = f"; also under {', '.join(result.modes)}" if result.modes else ""
    return f"judged on {result.device}{dtypes}{sizes}{modes}"


def _in_words(names: tuple[str, ...]) -> str:
    """Join names as a sentence does."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _laws_table(laws: tuple[LawResult, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 2), show_header=True, header_style="dim")
    for name, right in (("law", False), ("", False), ("verdict", False), ("cases", True), ("", False)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    skipped, following = [], []
    for law in laws:
        if law.verdict in (Verdict.SKIP, Verdict.NOT_ASKED, Verdict.UNJUDGED):
            skipped.append(law)
            continue
        if law.verdict.is_failure and law.follows:
            following.append(law)
            continue
        style = "green" if law.verdict is Verdict.PASS else "red" if law.level is Level.MUST else "yellow"
        text = law.message if law.message else law.title
        vacuous = f" ({law.vacuous} vacuous)" if law.vacuous else ""
        table.add_row(
            law.id, str(law.level), Text(str(law.verdict), style=style), str(law.cases), escape(text) + vacuous
        )
    if following:
        what = f"expected, because {following[0].follows} fails: {', '.join(law.id for law in following)}"
        cases = str(sum(law.cases for law in following))
        table.add_row(f"{len(following)} more", "", Text("fail", style="red"), cases, what)
    reasons: dict[tuple[Verdict, str], list[str]] = {}
    for law in skipped:
        reasons.setdefault((law.verdict, law.message), []).append(law.id)
    for (verdict, reason), ids in reasons.items():
        names = ", ".join(ids) if len(ids) < 4 else f"{len(ids)} laws"
        style = "yellow" if verdict is Verdict.UNJUDGED else "dim"
        table.add_row(names, "", Text(str(verdict).replace("_", " "), style=style), "", Text(reason, style=style))
    return table


def _counterexample(law: LawResult, dtypes: tuple[str, ...]) -> Text:
    text = Text(f"\n  smallest counterexample ({law.id})", style="bold")
    if law.counterexample is not None:
        fields = ", ".join(f"{name}={_value(value)}" for name, value in law.counterexample.recipe.items())
        text.append(f"\n    {fields}", style="not bold")
    text.append(f"\n    {law.message}", style="not bold")
    dtype = law.counterexample.recipe.get("dtype", dtypes[0]) if law.counterexample is not None else dtypes[0]
    if dtype != dtypes[0]:
        hint = f"If it is not meant for {dtype}, judge it with --dtype {dtypes[0]}"
        text.append(f"\n    No simpler case in {dtypes[0]} fails in this way. {hint}.", style="not bold")
    return text


def _value(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(result: CandidateResult) -> Text:
    if not result.diagnosis:
        return _nameless(result.difference, drawn=result.pairing is not None)
    text = Text()
    if len(result.diagnosis) > 1:
        text.append("\n  no single bug explains this; these two together explain every case", style="bold")
    for bug in result.diagnosis:
        detail = f" ({bug.detail})" if bug.detail else ""
        called = "the bug is called" if len(result.diagnosis) == 1 else "one of them is called"
        text.append(f"\n  {called} {bug.mutant}{detail}", style="bold red")
        text.append(f"\n    {bug.formula}\n    it happened in: {bug.seen}")
        if bug.also:
            text.append(f"\n    it gives the same results as: {', '.join(bug.also)}")
    return text


def _coverage(coverage: Coverage, due: tuple[str, ...]) -> Text:
    """Describe how much of the space was judged. It names all cells that are due, and a few of the others."""
    text = Text(style="dim")
    text.append(f"  coverage: {coverage.hit} of {coverage.demanded} cells (structure × regime × dtype × reduction)")
    if due:
        text.append(
            "\n  the judgement is not complete; there was no case of: " + "; ".join(due), style="not dim yellow"
        )
    elif coverage.missing:
        more = len(coverage.missing) - _CELLS_NAMED
        text.append("\n    not hit: " + "; ".join(coverage.missing[:_CELLS_NAMED]))
        text.append(f"; and {more} more (--json has them all)" if more > 0 else "")
    if coverage.sizes:
        met, of = len(coverage.sizes) - len(coverage.sizes_missing), len(coverage.sizes)
        text.append(f"\n  sizes: {met} of {of} pairs of size classes (--json has them all)")
    return text


def _branches(branches: Branches) -> Text:
    """Describe how much of the candidate's own code ran."""
    if branches.unread:
        return Text(f"  branches: not read: {branches.unread}", style="dim")
    ran = sum(any(branch.ran) for branch in branches.found)
    text = Text(f"  branches: {branches.both} of {ran} of its code ran both ways", style="dim")
    if branches.regions:
        text.append(f", judged at {branches.regions} sizes or ids at which its code may take another way")
    if branches.sizes_unread:
        text.append(f"\n    what it asks of sizes was not read, or not all of it: {branches.sizes_unread}")
    return text


def _nameless(difference: Difference | None, drawn: bool) -> Text:
    if difference is None:
        return Text("\n  no known bug: see the findings above", style="bold")
    shown = "the pairing and its" if drawn else "the"
    where = f", {difference.where}" if difference.where else ""
    text = Text(f"\n  no known bug: here is {shown} difference from the spec{where}", style="bold")
    moved = ", ".join(f"{many} to {_where(where)}" for where, many in difference.moved.items())
    counts = f"{difference.missing} missing, {difference.added} added, {sum(difference.moved.values())} moved"
    text.append(f"\n    of {difference.pairs} pairs on {difference.cases} cases: {counts}", style="not bold")
    text.append(f" ({moved})" if moved else "", style="not bold")
    if difference.factors is None:
        text.append(f"\n    all {difference.weights} weights of right pairs are right", style="not bold")
    else:
        least, most = (f"{factor:.3g}" for factor in difference.factors)
        by = f"{least} times" if least == most else f"from {least} to {most} times"
        off = f"{difference.weights_off} of {difference.weights} weights of right pairs are off"
        text.append(f"\n    {off}: {by} what they should be", style="not bold")
    for pattern in difference.patterns:
        text.append(f"\n    {pattern}", style="bold")
    if difference.value:
        text.append(f"\n    on every case the loss is {difference.value}", style="not bold")
    return text


def _where(moved: str) -> str:
    return f"the label {moved}" if moved[0] in "+-" else f"a label {moved}" if moved == "off the batch" else moved


def _effort(result: CandidateResult) -> str:
    judging = max(result.seconds - result.seconds_in_candidate - result.seconds_in_oracle, 0.0)
    rate = result.cases / result.seconds if result.seconds else 0.0
    share = 100 * judging / result.seconds if result.seconds else 0.0
    return (
        f"{result.cases} cases ({result.calls} calls) in {result.seconds:.1f} s, {rate:.0f} a second; "
        f"{share:.0f}% of the time in the harness, the rest in candidate and oracle"
    )


def as_text(result: CandidateResult, verbosity: int = 0, width: int = 120) -> str:
    """Temporary."""
    import io

    console = Console(file=io.StringIO(), width=width)
    console.print(candidate_findings(result))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def as_html(result: CandidateResult) -> str:
    """Temporary."""
    return f"<pre>{as_text(result)}</pre>"
