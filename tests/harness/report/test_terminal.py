"""The report for people, on a console of fixed width."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from shiftproof.harness.branches import Branch, Branches
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.report import terminal
from shiftproof.harness.report.events import (
    CandidateJudged,
    CandidateStarted,
    CaseJudged,
    Event,
    LawJudged,
    RunFinished,
    RunStarted,
)
from shiftproof.harness.report.terminal import TerminalReport
from shiftproof.harness.results import (
    CandidateResult,
    Counterexample,
    Coverage,
    Difference,
    LawResult,
    Level,
    NamedBug,
    Overall,
    Picture,
    Verdict,
)

RECIPE = Recipe(rows=1, length=3, classes=6, seed=0).to_json()
DRAWING = "0 1 2\n- ○ ×\n● right"

GOOD = CandidateResult(
    candidate="good.py:loss",
    call="good.py:loss",
    spec="hf.causal_lm",
    device="cpu",
    dtypes=("float32",),
    verdict=Overall.CONFORMS,
    laws=(
        LawResult("ALIGN-1", "every row on its own label", Level.MUST, Verdict.PASS, cases=129, vacuous=2),
        LawResult("EMPTY-1", "nothing to train on", Level.SHOULD, Verdict.FAIL, cases=15, message="the loss is 0"),
        LawResult("ALIGN-2", "by value", Level.MUST, Verdict.SKIP, message="its gradient shows the same"),
    ),
    calls=150,
    seconds=2.0,
    seconds_in_candidate=0.5,
    seconds_in_oracle=0.5,
)
BAD = replace(
    GOOD,
    candidate="bad.py:loss",
    verdict=Overall.FAILS,
    laws=(
        LawResult("CONTRACT-1", "answers", Level.MUST, Verdict.PASS, cases=70),
        LawResult(
            "ALIGN-1",
            "every row on its own label",
            Level.MUST,
            Verdict.FAIL,
            cases=6,
            message="2 of 2 logit rows: logits [0, 0] are scored on label [0, 2], not on label [0, 1]",
            counterexample=Counterexample("f340a7fb", RECIPE),
        ),
        LawResult("VALUE-1", "value", Level.MUST, Verdict.FAIL, cases=4, message="off", follows="ALIGN-1"),
        LawResult("GRAD-1", "gradient", Level.MUST, Verdict.FAIL, cases=3, message="off", follows="ALIGN-1"),
        *(LawResult(f"X-{n}", "x", Level.MUST, Verdict.SKIP, message="no such case") for n in range(5)),
    ),
    diagnosis=(NamedBug("double-shift", 1.0, "k = 2", "CE(z_t, y_{t+2})", "open-instruct#1549", ("another-one",)),),
    pairing=Picture(RECIPE, "logits", [[0, 1, 2]], [], [], DRAWING),
)


def shown(*events: Event, width: int = 120, terminal: bool = False) -> str:
    """What is on the console in the end."""
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False, force_terminal=terminal)
    report = TerminalReport(console)
    for event in events:
        report.tell(event)
    return console.export_text()


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def finished(*results: CandidateResult) -> RunFinished:
    return RunFinished("0.1.0", 7, "quick", 3.0, results)


def test_the_seed_comes_first() -> None:
    assert shown(RunStarted("0.1.0", 7, "ci", ("a",), 10)) == "shiftproof 0.1.0 · seed 7 · profile ci\n"
    many = shown(RunStarted("0.1.0", 7, "ci", ("a", "b"), 10))
    assert many == "shiftproof 0.1.0 · seed 7 · 2 candidates, profile ci\n"


def test_one_that_conforms() -> None:
    text = lines(shown(CandidateJudged(GOOD)))
    assert text == [
        "good.py:loss against hf.causal_lm: CONFORMS",
        "judged on cpu in float32",
        "law verdict cases",
        "ALIGN-1 MUST pass 129 every row on its own label (2 vacuous)",
        "EMPTY-1 SHOULD fail 15 the loss is 0",
        "ALIGN-2 skip its gradient shows the same",
        "144 cases (150 calls) in 2.0 s, 72 a second; 50% of the time in the harness, the rest in candidate and oracle",
    ]


def test_how_much_of_the_space_was_judged() -> None:
    def said(counts: dict[str, int], verdict: Overall = Overall.CONFORMS, due_after: int | None = None) -> list[str]:
        found = replace(GOOD, verdict=verdict, coverage=Coverage(counts, due_after=due_after))
        return [line for line in lines(shown(CandidateJudged(found), width=300)) if "a second" not in line][6:]

    counted = "coverage: {} of 5 cells (structure × regime × dtype × reduction)"
    some = dict.fromkeys("abcd", 0) | {"e": 7}
    assert said(dict.fromkeys("abcde", 1)) == [counted.format(5)]
    assert said(some) == [counted.format(1), "not hit: a; b; and 2 more (--json has them all)"]
    assert said(some, Overall.INCONCLUSIVE, due_after=3) == [
        counted.format(1),
        "the judgement is not complete; there was no case of: a; b; c; d",
    ]
    lacking = replace(GOOD, verdict=Overall.INCONCLUSIVE, coverage=Coverage(some, due_after=3))
    assert "4 cells not judged" in shown(finished(GOOD, lacking))


def test_one_that_does_not() -> None:
    message = "2 of 2 logit rows: logits [0, 0] are scored on label [0, 2], not on label [0, 1]"
    assert lines(shown(CandidateJudged(BAD), width=160))[:-1] == [
        "bad.py:loss against hf.causal_lm: DOES NOT CONFORM",
        "judged on cpu in float32",
        "law verdict cases",
        "CONTRACT-1 MUST pass 70 answers",
        f"ALIGN-1 MUST fail 6 {message}",
        "2 more fail 7 expected, because ALIGN-1 fails: VALUE-1, GRAD-1",
        "5 laws skip no such case",
        "smallest counterexample (ALIGN-1)",
        "rows=1, length=3, classes=6, dtype=float32, seed=0",
        message,
        "pairing of logits, labels [[0, 1, 2]]",
        *DRAWING.splitlines(),
        "the bug is called double-shift (k = 2)",
        "CE(z_t, y_{t+2})",
        "it happened in: open-instruct#1549",
        "it gives the same results as: another-one",
        "again: shiftproof replay f340a7fb",
    ]


def test_one_without_a_name_says_so() -> None:
    assert "no known bug: see the findings above" in shown(CandidateJudged(replace(BAD, diagnosis=(), pairing=None)))


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (
            Difference(8, 133, 42, 1, {"+1": 3, "another row": 2}, 499, 490, (1.25, 3.5)),
            "of 133 pairs on 8 cases: 42 missing, 1 added, 5 moved (3 to the label +1, 2 to another row)",
        ),
        (
            Difference(2, 9, 0, 0, {}, 30, 30, (2.0, 2.0)),
            "0 moved 30 of 30 weights of right pairs are off: 2 times what they should be",
        ),
        (Difference(2, 9, 1, 0, {}, 30, 0, None), "0 moved all 30 weights of right pairs are right"),
    ],
)
def test_one_without_a_name_says_how_it_differs(difference: Difference, said: str) -> None:
    told = " ".join(shown(CandidateJudged(replace(BAD, diagnosis=(), difference=difference))).split())
    assert "no known bug: here is the pairing and its difference from the spec" in told
    assert said in told


def test_two_bugs_at_once_are_both_told() -> None:
    (one,) = BAD.diagnosis
    told = shown(CandidateJudged(replace(BAD, diagnosis=(one, replace(one, mutant="denominator-all")))))
    assert "no single bug explains this; these two together explain every case" in told
    assert "one of them is called double-shift" in told
    assert "one of them is called denominator-all" in told


def test_one_that_could_not_be_judged() -> None:
    broken = replace(GOOD, verdict=Overall.ERROR, laws=(), message="importing it raised [red]ValueError[/red]")
    assert lines(shown(CandidateJudged(broken))) == [
        "good.py:loss against hf.causal_lm: COULD NOT BE JUDGED",
        "importing it raised [red]ValueError[/red]",
    ]


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    odd = "[bold]x[/bold] [0, 1] [/]"
    laws = (LawResult("A-1", "t", Level.MUST, Verdict.FAIL, message=odd, counterexample=Counterexample("0" * 8, {})),)
    text = shown(CandidateJudged(replace(BAD, candidate=odd, laws=laws, pairing=replace(BAD.pairing, drawing=odd))))  # type: ignore[type-var]
    assert text.count(odd) == 4  # the name, the law's message twice, the drawing


def test_what_was_judged_is_told_under_the_verdict() -> None:
    autocast = LawResult("STATE-3", "under autocast", Level.MUST, Verdict.PASS, cases=9, refused=2, mode="autocast")
    refused = replace(autocast, id="STATE-4", refused=9, mode="torch.compile", message="9 of 9 cases were refused")
    failed = replace(autocast, id="MODE-1", verdict=Verdict.FAIL, mode="no_grad", message="off")
    covered = Coverage({}, largest={"B": 64, "S": 4097, "V": 50257})
    both = ("float32", "bfloat16")
    found = replace(GOOD, device="cuda", dtypes=both, coverage=covered, laws=(autocast, refused, failed))
    _, judged, *_ = lines(shown(CandidateJudged(found), width=200))
    assert judged == "judged on cuda in float32 and bfloat16, up to B=64 S=4097 V=50257; also under autocast"
    builder = replace(GOOD, spec="shift.pad", dtypes=("int64",))
    assert lines(shown(CandidateJudged(builder)))[1] == "judged on cpu"


@pytest.mark.parametrize(("dtype", "is_told"), [("bfloat16", True), ("float32", False)])
def test_one_that_fails_in_the_second_dtype_may_not_be_meant_for_it(dtype: str, is_told: bool) -> None:
    laws = tuple(
        replace(law, counterexample=Counterexample("f340a7fb", {**RECIPE, "dtype": dtype}))
        if law.counterexample is not None
        else law
        for law in BAD.laws
    )
    text = shown(CandidateJudged(replace(BAD, dtypes=("float32", "bfloat16"), laws=laws)))
    assert ("judge it with --dtype float32" in text) is is_told


@pytest.mark.parametrize(
    ("verdict", "words"), [(Overall.FAILS, "(as expected)"), (Overall.CONFORMS, "(expected to fail)")]
)
def test_what_was_expected(verdict: Overall, words: str) -> None:
    assert words in lines(shown(CandidateJudged(replace(GOOD, expect="fails", verdict=verdict))))[0]


def test_a_summary_of_several() -> None:
    text = lines(shown(finished(GOOD, replace(BAD, expect="fails"))))
    assert text == [
        "conformance",
        "candidate spec dtype verdict diagnosis cases seconds",
        "good.py:loss hf.causal_lm float32 conforms 144 2.0",
        "bad.py:loss hf.causal_lm float32 fails, as expected double-shift 83 2.0",
        "all 2 are as expected",
        "227 cases in 3.0 s",
    ]


def test_a_summary_that_is_not_as_expected() -> None:
    named = replace(BAD, expect="fails", expected_diagnosis="no-shift")
    text = shown(finished(GOOD, BAD, named), width=160)
    assert "fails (expected to fail as no-shift)" in text
    assert "2 of 3 are not as expected" in text


def test_a_summary_where_nothing_was_expected_to_fail() -> None:
    assert "all 2 conform" in shown(finished(GOOD, GOOD))
    assert "1 of 2 do not conform" in shown(finished(GOOD, BAD))


def test_a_summary_cuts_nothing_off() -> None:
    long = replace(
        BAD, candidate="/somewhere/far/away/" + "deep/" * 12 + "losses.py:text_loss", spec="packed.position_ids"
    )
    rows = shown(finished(long, GOOD), width=100)
    folded = "".join(rows.split())
    for word in ("packed.position_ids", "float32", "fails", "seconds"):
        assert word in folded


def test_one_candidate_needs_no_summary() -> None:
    assert shown(finished(GOOD)) == ""


def test_a_summary_says_in_short_what_has_no_name() -> None:
    crashed = replace(BAD, diagnosis=(), laws=(replace(BAD.laws[1], message="was killed by SIGSEGV"),))
    broken = replace(GOOD, verdict=Overall.ERROR, laws=(), message="importing it raised a very long " + "story " * 20)
    text = shown(finished(crashed, broken), width=200)
    assert "was killed by SIGSEGV" in text
    assert "importing it raised a very long story story sto…" in text


def test_progress_only_where_there_is_a_terminal() -> None:
    events: tuple[Event, ...] = (
        RunStarted("0.1.0", 7, "quick", ("a",), 4),
        CandidateStarted("a", 4),
        CaseJudged("a"),
        LawJudged("a", GOOD.laws[0], 2),
        CaseJudged("a"),
        finished(),
    )
    assert shown(*events) == "shiftproof 0.1.0 · seed 7 · profile quick\n"
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    report = TerminalReport(console)
    for event in events:
        report.tell(event)
    assert report.task is not None
    (task,) = report.progress.tasks
    assert (task.completed, task.total, task.description) == (3, 4, "a")
    assert "cases" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_law_with_fewer_cases_than_planned_still_fills_its_share() -> None:
    console = Console(width=80, file=io.StringIO())
    report = TerminalReport(console)
    report.tell(RunStarted("0.1.0", 7, "quick", ("a",), 12))
    for cases in (1, 7):
        for _ in range(cases):
            report.tell(CaseJudged("a"))
        report.tell(LawJudged("a", GOOD.laws[0], 5))
    (task,) = report.progress.tasks
    assert task.completed == 5 + 7
    report.tell(finished())


def test_of_a_long_case_only_the_first_labels_are_printed() -> None:
    assert terminal._few([[0, 1, 2]]) == "[[0, 1, 2]]"
    assert terminal._few([list(range(30))] * 5).count("23, …]") == 4
    assert terminal._few([[0]] * 5) == "[[0], [0], [0], [0], …]"


NEVER = Branch("x/losses.py", 52, 7, "loss", "S > 67", ("true", "false"), (False, True), (False, False))


def test_what_never_ran_is_on_the_verdict_line() -> None:
    judged = replace(GOOD, branches=Branches((NEVER, replace(NEVER, ran=(True, True), condition="B > 1"))))
    said = lines(shown(CandidateJudged(judged), width=160))
    assert said[0].endswith("CONFORMS, except losses.py:52 (S > 67 never true)")
    assert "branches: 1 of 2 of its code ran both ways" in said[-1]


def test_how_much_of_its_code_was_read() -> None:
    def last(branches: Branches) -> list[str]:
        return lines(shown(CandidateJudged(replace(GOOD, branches=branches)), width=160))

    assert "branches: not read: it is a function of torch" in last(Branches(unread="it is a function of torch"))
    found = last(Branches((replace(NEVER, ran=(True, True)),), sizes_unread="KeyError: 3", regions=4))
    assert "judged at 4 sizes or ids at which its code may take another way" in found[-2]
    assert found[-1] == "what it asks of sizes was not read, or not all of it: KeyError: 3"
