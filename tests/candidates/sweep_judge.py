"""A judge of classes that are none: what becomes of one is in its name. For tests of the engine of a sweep."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from shiftproof.harness.results import Counterexample
from shiftproof.harness.sweep.result import Documentation, Outcome, Row
from shiftproof.harness.sweep.settings import Settings

LOG = "JUDGED"
"""The variable that has the name of a file: one line for each class that is begun, with the process that does it."""


def judge(target: str, settings: Settings) -> Row:
    """The row of a class called after its fate, such as ``Right7``."""
    name = target.rpartition(":")[2]
    if LOG in os.environ:
        with Path(os.environ[LOG]).open("a") as log:
            log.write(f"{name} {os.getpid()}\n")
    fate = name.rstrip("0123456789")
    if fate == "Crash":
        os.abort()
    if fate == "Leave":
        sys.exit(3)
    if fate == "Hang":
        time.sleep(600)
    if fate == "Hog":
        kept = [bytearray(1 << 26) for _ in range(64)]
        raise AssertionError(f"there is room for {len(kept)} times 64 MiB")
    if fate == "Raise":
        raise ValueError("two lines\nof words")
    if fate == "Slow":
        time.sleep(0.2)
    return row(target, settings)


def row(target: str, settings: Settings) -> Row:
    name = target.rpartition(":")[2]
    common = {"seconds": 0.25, "seed": settings.seed, "environment": {"torch": "2.13.0"}}
    if name.startswith("Wrong"):
        return Row(
            target,
            Outcome.FAILS,
            "2 of 2 logit rows: logits [0, 0] are scored on label [0, 2]",
            laws=("ALIGN-1", "VALUE-1"),
            diagnosis=("double-shift",),
            counterexample=Counterexample("0123abcd", {"rows": 1}),
            **common,
        )
    if name.startswith("Unshifted"):
        by = name.startswith("UnshiftedBy")
        documentation = Documentation.BY if by else Documentation.AGAINST
        sentence = "labels must be shifted" if by else "<b>labels are shifted inside the model</b> & so on"
        return Row(
            target,
            Outcome.UNSHIFTED,
            "logits are scored on the label beside them",
            alignment="k=0",
            documentation=documentation,
            sentence=sentence,
            **common,
        )
    if name.startswith("Unbuilt"):
        return Row(target, Outcome.NOT_BUILT, "needs a vision tower", **common)
    if name.startswith("Sound"):
        return Row(target, Outcome.NO_PAIRS, "8 rows of logits for any labels", **common)
    return Row(target, Outcome.CONFORMS, alignment="k=1", prefix=4, **common)
