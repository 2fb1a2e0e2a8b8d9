"""Naming the bug: every mutant is found by the pairs it would use, and symptoms by what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Mask, Recipe, Regime
from shiftproof.harness.cases.space import hand_made, space
from shiftproof.harness.diagnosis.evidence import Evidence, explains, gather
from shiftproof.harness.diagnosis.name import name_bugs, name_by_pairs, name_by_symptom, picture
from shiftproof.harness.judge.loading import Job, LoadedCandidate, Options
from shiftproof.harness.laws import LAWS
from shiftproof.harness.mutants import MUTANTS, BugVariant
from shiftproof.harness.mutants.symptoms import SYMPTOMS
from shiftproof.harness.mutants.views import variants_under
from shiftproof.harness.probe.read import Site, predict
from shiftproof.harness.results import LawResult, Level, Verdict
from shiftproof.reference.pairing import Pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

CANDIDATES = Path(__file__).parents[2] / "candidates"
TAKES = frozenset({"logits", "labels", "num_items_in_batch", "position_ids", "segment_ids"})


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cases_of(spec: LossSpec) -> list[Case]:
    return [build_case(spec, recipe) for recipe in hand_made(space(spec, TAKES))]


def evidence_of(cases: list[Case], pairings: list[Pairing]) -> list[Evidence]:
    """What a loss with these pairs would have shown."""
    return [Evidence(case, predict(pairing)) for case, pairing in zip(cases, pairings, strict=True)]


def names(evidence: list[Evidence], spec: LossSpec) -> set[str]:
    found = name_by_pairs(evidence, spec, "float32")
    assert len(found) <= 1
    return {name for bug in found for name in (bug.mutant, *bug.also)}


# Specs under which every mutant of pairs can be had, the likeliest first.
SPECS = (
    *("hf.causal_lm", "masked", "packed.position_ids", "packed.segment_ids", "hf.seq2seq", "hf.prefix_lm"),
    *("higgs.hf", "higgs.mean_nonempty", "moss_ttsd", "musicgen", "moshi", "megatron.mtp", "parler"),
    "hf.label_smoother",
)
MTP = PROFILES["megatron.mtp"]
PACKED_MTP = replace(
    MTP,
    name="packed.mtp",
    terms=(replace(MTP.terms[0], documents="position_ids"),),  # type: ignore[arg-type]
)


@lru_cache
def cases_under(spec: LossSpec) -> list[Case]:
    return cases_of(spec)


def shown_by(variant: BugVariant, spec: LossSpec) -> list[Evidence]:
    """What a loss with this bug would show on the hand-made cases that it can be had on."""
    found = [(case, variant.wrong(spec, case.batch)) for case in cases_under(spec)]
    known = [(case, pairing) for case, pairing in found if pairing is not None]
    return evidence_of([case for case, _ in known], [pairing for _, pairing in known])


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_found_by_its_pairs(name: str) -> None:
    for spec in (*map(PROFILES.__getitem__, SPECS), PACKED_MTP):
        for variant in variants_under(MUTANTS[name], spec):
            evidence = shown_by(variant, spec)
            right = explains(evidence, lambda case: case.pairing, 1e-3)
            if len(evidence) >= 3 and not right:
                assert name in names(evidence, spec)
                return
    pytest.fail(f"no spec of {SPECS} tells {name} from right")


@pytest.mark.parametrize(
    ("spec", "name", "detail"),
    [
        ("higgs.hf", "double-shift", ""),
        ("higgs.hf", "double-shift", "in audio"),
        ("higgs.boson", "no-shift", "in text"),
        ("csm", "roll-wrap", "in backbone"),
        ("csm", "codebook-axis-shift", "−1"),
        ("musicgen", "codebook-micro", ""),
        ("moshi", "codebook-macro", "over all codebooks"),
        ("moss_ttsd", "layout-swap", "viewed"),
        ("torchtitan.mtp", "mtp-scale", ""),
        ("medusa", "head-off-by-one", "nearer"),
    ],
)
def test_bugs_of_streams_and_codebooks_are_told_with_where_they_are(spec: str, name: str, detail: str) -> None:
    takes = PROFILES[spec]
    (variant,) = [variant for variant in variants_under(MUTANTS[name], takes) if variant.detail == detail]
    (found,) = name_by_pairs(shown_by(variant, takes), takes, "float32")
    assert name in (found.mutant, *found.also)
    if found.mutant == name:
        assert found.detail == detail


def test_what_is_right_has_no_name() -> None:
    spec = PROFILES["hf.causal_lm"]
    cases = cases_of(spec)
    assert names(evidence_of(cases, [case.pairing for case in cases]), spec) == set()


def test_without_evidence_there_is_no_name() -> None:
    assert name_by_pairs([], PROFILES["hf.causal_lm"], "float32") == ()


def test_what_nobody_knows_has_no_name() -> None:
    spec = PROFILES["hf.causal_lm"]
    evidence = [Evidence(case, {("logits", 0, 0): {0: 0.123}}) for case in cases_of(spec)]
    assert names(evidence, spec) == set()


def test_one_case_that_disagrees_is_enough_to_take_a_name_away() -> None:
    spec = PROFILES["hf.causal_lm"]
    cases = cases_of(spec)
    shifted = [MUTANTS["double-shift"].variants[0].wrong(spec, case.batch) for case in cases]
    evidence = evidence_of(cases, [pairing for pairing in shifted if pairing is not None])
    assert names(evidence, spec) == {"double-shift"}
    odd = Evidence(cases[-1], predict(cases[-1].pairing))
    assert "double-shift" not in names([*evidence[:-1], odd], spec)


def test_all_that_can_be_compared_must_agree() -> None:
    cases = cases_of(PROFILES["hf.causal_lm"])[:4]
    evidence = evidence_of(cases, [case.pairing for case in cases])

    def given(*pairings: Pairing | None) -> bool:
        known = dict(zip([case.recipe for case in cases], pairings, strict=True))
        return explains(evidence, lambda case: known[case.recipe], 1e-3)

    right = [case.pairing for case in cases]
    assert given(*right)
    assert given(*right[:3], None), "three are enough"
    assert not given(*right[:2], None, None), "two are not"
    assert not given(*right[:3], right[0])
    assert not given(None, None, None, None)


@pytest.mark.parametrize(("factor", "same"), [(1.0005, True), (1.002, False), (-1.0, False)])
def test_weights_agree_within_what_the_dtype_can_tell(factor: float, same: bool) -> None:
    (case, *_) = cases_of(PROFILES["hf.causal_lm"])
    scored = {at: {c: w * factor for c, w in row.items()} for at, row in predict(case.pairing).items()}
    assert explains([Evidence(case, scored)], lambda case: case.pairing, 1e-3) is same


def trial_of(function: str, spec: str = "hf.causal_lm", gradient: bool = True) -> Trial:
    candidate = resolve(f"{CANDIDATES}/{function}", {})
    loaded = LoadedCandidate(Job("x", candidate, "cpu", ("float32",)), Options(in_process=True))
    loaded.start()
    if not gradient:
        loaded.without_gradient()
    return loaded.trial(PROFILES[spec])


@pytest.mark.parametrize("gradient", [True, False])
def test_evidence_is_gathered_with_and_without_a_gradient(gradient: bool) -> None:
    trial = trial_of("wrong_alignment.py:double_shift", gradient=gradient)
    evidence, silent = gather(trial)
    assert silent == []
    assert len(evidence) >= 5
    assert "double-shift" in names(evidence, trial.spec)


def test_what_raises_is_silent() -> None:
    evidence, silent = gather(trial_of("misbehaving.py:raises_always"))
    assert evidence == []
    assert {seen.problem.kind for seen in silent if seen.problem} == {"raised RuntimeError"}


RECIPE = Recipe(rows=1, length=3, classes=6, masks=(Mask.NONE,), regime=Regime.CALM)


@pytest.mark.parametrize("gradient", [True, False])
def test_a_picture_of_expected_and_found(gradient: bool) -> None:
    shown = picture(trial_of("wrong_alignment.py:double_shift", gradient=gradient), RECIPE)
    assert shown is not None
    assert shown.labels == [[0, 1, 2]]
    assert shown.expected == [{"logits": [0, t], "labels": [[0, t + 1]]} for t in (0, 1)]
    assert shown.found == [{"logits": [0, 0], "labels": [[0, 2]]}]


def test_no_picture_of_what_gives_no_loss() -> None:
    assert picture(trial_of("misbehaving.py:raises_always"), RECIPE) is None


# --- symptoms ---------------------------------------------------------------------------------------------------------


def failed(id: str) -> LawResult:
    return LawResult(id, "t", Level.MUST, Verdict.FAIL, cases=3, message="…")


def symptoms(*ids: str) -> list[str]:
    """The names given where these laws failed and the others held."""
    trial: Any = trial_of("misbehaving.py:one_percent_off")
    trial.failed.update(ids)
    results = [failed(id) if id in ids else LawResult(id, "t", Level.MUST, Verdict.PASS, cases=3) for id in LAWS]
    return [bug.mutant for bug in name_by_symptom(results, trial, [], [])]


@pytest.mark.parametrize("id", [law.id for law in LAWS.values() if len(law.points_to) == 1])
def test_a_law_that_fails_alone_names_its_bug(id: str) -> None:
    assert symptoms(id) == list(LAWS[id].points_to)
    assert symptoms(id)[0] in {**SYMPTOMS, **MUTANTS}


def test_a_law_that_points_two_ways_names_none() -> None:
    (id, *_) = [law.id for law in LAWS.values() if len(law.points_to) > 1]
    assert symptoms(id) == []


def test_a_law_that_fails_with_what_it_presumes_names_none() -> None:
    assert symptoms("GRAD-3", "GRAD-1") == []


def test_nothing_failed_and_nothing_is_named() -> None:
    assert symptoms() == []


@pytest.mark.parametrize("profile", ["hf.causal_lm", "higgs.hf", "csm"])
def test_pairs_without_a_gradient_under_a_right_value(profile: str) -> None:
    spec = PROFILES[profile]
    cases = cases_of(spec)[:4]

    def named(evidence: list[Evidence], *ids: str) -> list[str]:
        trial: Any = trial_of("misbehaving.py:one_percent_off")
        trial.spec = spec
        trial.failed.update(ids)
        return [bug.mutant for bug in name_bugs([], trial, evidence, [])]

    def without(lost: Callable[[Site], bool]) -> list[Evidence]:
        kept = [{site: of for site, of in predict(case.pairing).items() if not lost(site)} for case in cases]
        return [Evidence(case, scored) for case, scored in zip(cases, kept, strict=True)]

    assert named(without(lambda site: site[1:3] == (0, 0)), "ALIGN-1") == ["detached-part"]
    assert named(without(lambda site: site[0] == spec.logits[-1]), "ALIGN-1") == ["detached-part"]
    assert named(without(lambda _: True), "ALIGN-1") == ["detached-part"]
    assert "detached-part" not in named(without(lambda site: site[1:3] == (0, 0)), "ALIGN-1", "VALUE-1")
    lacking = without(lambda site: site[1:3] == (0, 0))
    elsewhere = Evidence(cases[0], {**lacking[0].scored, (spec.logits[0], 0, 0): {10: 0.1}})
    assert "detached-part" not in named([*lacking[1:], elsewhere], "ALIGN-1")
