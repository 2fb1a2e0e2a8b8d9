"""Two bugs at once: both are named, by a joint prediction that fits exactly, and nothing is guessed."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.space import hand_made, space
from shiftproof.harness.diagnosis.evidence import Evidence, gather, variants_of
from shiftproof.harness.diagnosis.name import name_bugs, name_by_pairs
from shiftproof.harness.diagnosis.two_bugs import name_two_bugs
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.mutants.alignment import ALIGNMENT
from shiftproof.harness.mutants.both import both
from shiftproof.harness.mutants.normalisation import NORMALISATION
from shiftproof.harness.probe.read import predict
from shiftproof.harness.results import NamedBug
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

CANDIDATES = Path(__file__).parents[2] / "candidates"
TAKES = frozenset({"logits", "labels", "num_items_in_batch", "position_ids", "segment_ids"})


def _declared() -> dict[str, tuple[str, set[str]]]:
    path = CANDIDATES / "wrong_two_at_once.py"
    spec = importlib.util.spec_from_file_location("wrong_two_at_once", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wrong: dict[str, tuple[str, set[str]]] = module.WRONG
    return wrong


WRONG = _declared()


def diagnosed(function: str, profile: str) -> tuple[NamedBug, ...]:
    candidate = resolve(f"{CANDIDATES}/{function}", {})
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.of_loss(PROFILES[profile])
        trial.failed.add("VALUE-1")
        evidence, silent = gather(trial)
        return name_bugs([], trial, evidence, silent)
    finally:
        loaded.close()


@pytest.mark.slow
@pytest.mark.parametrize("function", WRONG)
def test_both_bugs_of_a_real_loss_are_named(function: str) -> None:
    profile, expected = WRONG[function]
    found = diagnosed(f"wrong_two_at_once.py:{function}", profile)
    assert len(found) == 2
    one, other = ({bug.mutant, *bug.also} for bug in found)
    first, second = sorted(expected)
    assert (first in one and second in other) or (second in one and first in other)


@pytest.mark.parametrize("function", ["wrong_alignment.py:double_shift", "wrong_normalisation.py:overcount_rows"])
def test_one_bug_is_still_one(function: str) -> None:
    assert len(diagnosed(function, "hf.causal_lm")) == 1


def test_what_nobody_knows_is_not_two_bugs_either() -> None:
    assert name_two_bugs([Evidence(case, {}) for case in cases_of(PROFILES["hf.causal_lm"])], CAUSAL, "float32") == ()
    odd = [Evidence(case, {("logits", 0, 0): {0: 0.123}}) for case in cases_of(CAUSAL)]
    assert name_two_bugs(odd, CAUSAL, "float32") == ()
    assert name_two_bugs([], CAUSAL, "float32") == ()


@pytest.mark.parametrize("profile", ["hf.causal_lm", "higgs.mean_nonempty", "csm", "parler"])
def test_right_pairs_are_not_two_bugs_that_cancel(profile: str) -> None:
    spec = PROFILES[profile]
    assert name_two_bugs([Evidence(case, predict(case.pairing)) for case in cases_of(spec)], spec, "float32") == ()


CAUSAL = PROFILES["hf.causal_lm"]


def cases_of(spec: LossSpec) -> list[Case]:
    return [case for recipe in hand_made(space(spec, TAKES)) if (case := build_case(spec, recipe)).pairing.pairs]


def shown_by(first: str, second: str, spec: LossSpec, scope: str = "") -> list[Evidence]:
    """What a loss with the first variant of both would show on the hand-made cases that both can be had on."""
    one, other = (
        next(variant for variant in variants_of(name, spec) if scope in variant.detail) for name in (first, second)
    )
    wrong = both(one, other)
    found = [(case, wrong(spec, case.batch)) for case in cases_of(spec)]
    return [
        Evidence(case, predict(pairing))
        for case, pairing in found
        if pairing is not None and all(math.isfinite(pair.weight) for pair in pairing.pairs)
    ]


def cell_counts(spec: LossSpec, scope: str = "") -> dict[str, list[tuple[str, str]]]:
    """How every alignment bug together with every normalisation bug is told.

    "both": by both names; "one": by one of them, where the other makes no difference or only keeps the right count.
    """
    told: dict[str, list[tuple[str, str]]] = {"both": [], "one": [], "wrongly": [], "not": []}
    for first in ALIGNMENT:
        for second in NORMALISATION:
            evidence = shown_by(first.name, second.name, spec, scope)
            if len(evidence) < 3 or all(each.scored == predict(each.case.pairing) for each in evidence):
                continue
            found = name_by_pairs(evidence, spec, "float32") or name_two_bugs(evidence, spec, "float32")
            names = {name for bug in found for name in (bug.mutant, *bug.also)}
            meant = {first.name, second.name}
            whole = "both" if meant <= names and len(found) == 2 else "wrongly"
            how = "not" if not found else "one" if len(found) == 1 and meant & names else whole
            told[how].append((first.name, second.name))
    return told


def test_every_alignment_bug_with_every_normalisation_bug() -> None:
    """On packed cases, where alone boundaries are subtracted, logits that wrap round meet no label that counts."""
    told = cell_counts(CAUSAL)
    assert told["not"] == told["wrongly"] == []
    assert {second for _, second in told["one"]} == {"packed-double-subtract"}
    assert len(told["both"]) >= 40 * len(told["one"])


@pytest.mark.slow
def test_the_same_in_the_audio_of_two_streams() -> None:
    told = cell_counts(PROFILES["higgs.hf"], "in audio")
    assert told["not"] == told["wrongly"] == told["one"] == []
    assert len(told["both"]) == 130
