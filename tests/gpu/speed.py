"""The part ``speed``: what ``shiftproof speed`` says of losses whose answers it has to find right and honest."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.judge.plan import candidates_of
from shiftproof.harness.report.speed import as_json
from shiftproof.harness.speed.plan import plan
from shiftproof.harness.speed.result import Grade, overall
from shiftproof.harness.speed.run import try_speed

from .asked import Item, PartArguments, go_through
from .findings import Finding, Result
from .layout import ROOT

TARGETS = ("examples/torch_losses.py:sliced", "examples/torch_losses.py:padded_labels")


def gated(asked: PartArguments, target: str) -> Finding:
    """The gate without a bound: it fails a loss that is wrong or cheats, and nothing else."""
    started = time.monotonic()
    shape, deadline = ("1,16,64", 0.5) if asked.is_dry else ("text", 8.0)
    try:
        candidates = candidates_of([str(ROOT / target)], spec="hf.causal_lm", devices=[asked.device])
        plans = plan(candidates, against="yardstick", shapes=[shape], deadline=deadline, times_only=asked.is_dry)
        trials = [try_speed(each.candidate, each.rival, each.terms, each.options, tell=print) for each in plans]
    except UsageError as error:
        return Finding(asked.part, target, Result.NOT_RUN, str(error)[:300], round(time.monotonic() - started, 1))
    report = Path(asked.out) / f"speed-{target.rpartition(':')[2]}.json"
    report.write_text(json.dumps(as_json(trials), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    grade = overall(trials)
    judged = {Grade.PASSES: Result.PASSED, Grade.FAILS: Result.WRONG}.get(grade, Result.NOT_RUN)
    # How fast a CPU that stands in is, and whether it is quiet enough to be timed, is not the question.
    result = Result.PASSED if asked.is_dry else judged
    return Finding(asked.part, target, result, str(grade), round(time.monotonic() - started, 1))


def items(asked: PartArguments) -> dict[str, Item]:
    return {target: partial(gated, asked, target) for target in (TARGETS[:1] if asked.is_dry else TARGETS)}


def main(asked: PartArguments) -> None:
    go_through(asked, items(asked))


if __name__ == "__main__":
    main(PartArguments.of_arguments())
