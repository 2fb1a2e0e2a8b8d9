"""Made-up results, and what a report shows of them on a console of fixed width."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from shiftproof.harness.branches import Branch
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.report.events import CandidateJudged, Entry, Event, RunFinished, RunStarted
from shiftproof.harness.report.terminal import TerminalReport
from shiftproof.harness.results import (
    CandidateResult,
    Counterexample,
    Coverage,
    LawResult,
    Level,
    NamedBug,
    Overall,
    Picture,
    Verdict,
)

RECIPE = Recipe(rows=1, length=3, classes=6, seed=0).to_json()
DRAWING = "0 1 2\n- ○ ×\n● right"
MESSAGE = "2 of 2 logit rows: logits [0, 0] are scored on label [0, 2], not on label [0, 1]"
NEVER = Branch("x/losses.py", 52, 7, "loss", "S > 67", ("true", "false"), (False, True), (False, False))

STATES = ("loss scale", "no_grad", "inference_mode", "two losses at once", "frozen logits", "autocast")

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
COVERED = replace(
    GOOD,
    dtypes=("float32", "bfloat16"),
    laws=tuple(
        LawResult(f"STATE-{number}", "a state", Level.MUST, Verdict.PASS, cases=20, mode=state)
        for number, state in enumerate(STATES)
    ),
    coverage=Coverage({}, largest={"B": 128, "S": 8193, "V": 128000}),
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
            message=MESSAGE,
            counterexample=Counterexample("f340a7fb", RECIPE),
        ),
        LawResult("VALUE-1", "value", Level.MUST, Verdict.FAIL, cases=4, message="off", follows="ALIGN-1"),
        LawResult("GRAD-1", "gradient", Level.MUST, Verdict.FAIL, cases=3, message="off", follows="ALIGN-1"),
        *(LawResult(f"X-{n}", "x", Level.MUST, Verdict.SKIP, message="no such case") for n in range(5)),
    ),
    diagnosis=(NamedBug("double-shift", 1.0, "k = 2", "CE(z_t, y_{t+2})", "open-instruct#1549", ("another-one",)),),
    pairing=Picture(RECIPE, "logits", [[0, 1, 2]], [], [], DRAWING),
)
KNOWN = replace(BAD, expect="fails", expected_diagnosis="double-shift")


def entry(result: CandidateResult) -> Entry:
    return Entry(result.candidate, result.spec, result.device, result.dtypes)


def started(*results: CandidateResult) -> RunStarted:
    return RunStarted("0.1.0", 7, "quick", tuple(map(entry, results)), 10)


def finished(*results: CandidateResult) -> RunFinished:
    return RunFinished("0.1.0", 7, "quick", 3.0, results)


def shown(*events: Event, width: int = 120, verbosity: int = 0) -> str:
    """What is on the console in the end."""
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False, force_terminal=False)
    report = TerminalReport(console, verbosity)
    for event in events:
        report.tell(event)
    return console.export_text()


def whole(*results: CandidateResult, width: int = 120, verbosity: int = 0) -> list[str]:
    """The lines of a whole run."""
    events = (started(*results), *map(CandidateJudged, results), finished(*results))
    return shown(*events, width=width, verbosity=verbosity).splitlines()


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
