"""What -v and -vv add: every law, what was skipped and why, and how much of the space and of the code was judged."""

from __future__ import annotations

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..branches import Branches
from ..results import CandidateResult, Coverage, LawResult, Level, Verdict

_CELLS_NAMED = 2
_NO_ANSWER = (Verdict.SKIP, Verdict.NOT_ASKED, Verdict.UNJUDGED)


def laws_table(laws: tuple[LawResult, ...], with_skips: bool) -> RenderableType:
    """Render a row for each law that was judged. ``with_skips`` adds the others, one row for each reason."""
    table = Table(box=None, padding=(0, 1, 0, 2), show_header=True, header_style="dim")
    for name, right in (("law", False), ("", False), ("verdict", False), ("cases", True), ("", False)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    following = [law for law in laws if law.verdict.is_failure and law.follows]
    for law in laws:
        if law.verdict in _NO_ANSWER or law in following:
            continue
        style = "green" if law.verdict is Verdict.PASS else "red" if law.level is Level.MUST else "yellow"
        vacuous = f" ({law.vacuous} vacuous)" if law.vacuous else ""
        said = escape(law.message or law.title) + vacuous
        table.add_row(law.id, str(law.level), Text(str(law.verdict), style=style), str(law.cases), said)
    if following:
        what = f"expected, because {following[0].follows} fails: {', '.join(law.id for law in following)}"
        cases = str(sum(law.cases for law in following))
        table.add_row(f"{len(following)} more", "", Text("fail", style="red"), cases, what)
    reasons: dict[tuple[Verdict, str], list[str]] = {}
    for law in laws:
        if law.verdict in _NO_ANSWER and (with_skips or law.verdict is not Verdict.SKIP):
            reasons.setdefault((law.verdict, law.message), []).append(law.id)
    for (verdict, why), ids in reasons.items():
        names = ", ".join(ids) if len(ids) < 4 else f"{len(ids)} laws"
        style = "yellow" if verdict is Verdict.UNJUDGED else "dim"
        table.add_row(names, "", Text(str(verdict).replace("_", " "), style=style), "", Text(why, style=style))
    return table


def judged_space(result: CandidateResult) -> list[Text]:
    """Describe what the judgement took, and how much of the space of cases and of the candidate's code it covers."""
    found = [Text(f"  {_effort(result)}", style="dim")]
    if any(law.verdict.is_failure and law.level is Level.MUST for law in result.laws):
        return found  # a failing law ends early, and leaves out its remaining cases
    found += [_coverage(result.coverage, result.gaps)] if result.coverage is not None else []
    return found + ([_branches(result.branches)] if result.branches is not None else [])


def _coverage(coverage: Coverage, due: tuple[str, ...]) -> Text:
    """Describe how much of the space was judged. The cells that are due are named elsewhere."""
    text = Text(f"  coverage: {coverage.hit} of {coverage.demanded} cells (structure × regime × dtype × reduction)")
    text.stylize("dim")
    if coverage.missing and not due:
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


def _effort(result: CandidateResult) -> str:
    judging = max(result.seconds - result.seconds_in_candidate - result.seconds_in_oracle, 0.0)
    rate = result.cases / result.seconds if result.seconds else 0.0
    share = 100 * judging / result.seconds if result.seconds else 0.0
    return (
        f"{result.cases} cases ({result.calls} calls) in {result.seconds:.1f} s, {rate:.0f} a second; "
        f"{share:.0f}% of the time in the harness, the rest in candidate and oracle"
    )
