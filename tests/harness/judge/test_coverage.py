"""Coverage: what is counted, what is demanded, that complete profiles have all of it, and that a lack is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from shiftproof.harness.candidates.arguments import Binding
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Observation, Trial
from shiftproof.harness.candidates.variant import Asked
from shiftproof.harness.cases.recipe import Count, Mask, Regime
from shiftproof.harness.cases.space import Space
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.coverage import coverage, gaps
from shiftproof.harness.judge.profile import PROFILES as EFFORTS
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.kill_table.trial import Bench
from shiftproof.harness.label_builders.candidate import BuilderTrial
from shiftproof.harness.label_builders.laws import BUILDER_LAWS
from shiftproof.harness.laws import LAWS, Law
from shiftproof.harness.laws.base import NOT_APPLICABLE, PASS
from shiftproof.harness.mutants.behaviour import answer
from shiftproof.harness.results import Coverage, LawResult, Level, Overall, Verdict, overall
from shiftproof.reference.builders import BUILDERS
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES

BRIEF = Profile("brief", 0.1, complete=True)


def right_of_its_batch(asked: Asked) -> Observation:
    """The right answer, worked out anew: a law may have changed the batch of a case."""
    pairing = build_pairing(asked.case.spec, asked.case.batch)
    case = replace(asked.case, pairing=pairing, oracle=evaluate(pairing, asked.case.batch))
    return answer(replace(asked, case=case))


def trial_under(profile: str, **candidate: Any) -> Trial:
    """A trial of a loss that is given every argument and answers right."""
    trial = Bench(PROFILES[profile], "float32", BRIEF).right
    trial.act = right_of_its_batch
    trial.candidate = replace(trial.candidate, **candidate)
    return trial


def builder_trial(profile: str) -> BuilderTrial:
    binding = Binding({name: name for name in BUILDERS[profile].inputs}, frozenset())
    return BuilderTrial(Candidate("b", "m:f", spec=profile), BUILDERS[profile], binding, cast(Any, None), device="cpu")


def counting(laws: Sequence[Law[Any, Any]]) -> list[Law[Any, Any]]:
    """The laws, but that they find every case right, so that what they are asked is counted and nobody is called."""
    return [replace(law, check=lambda trial, recipe: PASS) for law in laws]


def covered(trial: Any, effort: Profile, laws: Sequence[Law[Any, Any]]) -> Coverage:
    for law in laws:
        ask(law, trial, effort, 0)
    return coverage(laws, trial, effort.complete)


@pytest.mark.representatives(10)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_complete_run_asks_every_cell_however_few_cases_it_draws(profile: str) -> None:
    found = covered(trial_under(profile), BRIEF, counting([*LAWS.values()]))
    assert found.demanded > 80
    assert found.missing == ()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.slow
def test_ci_asks_every_cell(profile: str) -> None:
    assert covered(trial_under(profile), EFFORTS["ci"], counting([*LAWS.values()])).missing == ()


@pytest.mark.parametrize("profile", BUILDERS)
def test_a_complete_run_judges_every_cell_of_builders(profile: str) -> None:
    found = covered(builder_trial(profile), BRIEF, counting([*BUILDER_LAWS.values()]))
    assert found.demanded > 5
    assert found.missing == ()


@pytest.mark.parametrize(
    ("profile", "candidate"),
    [
        ("torch.cross_entropy", {}),
        ("torchtune", {"gradient": False}),
        pytest.param("musicgen", {}, marks=pytest.mark.slow),
    ],
)
def test_what_the_laws_do_not_speak_of_is_not_demanded(profile: str, candidate: dict[str, Any]) -> None:
    """Here they judge: cases without a pair, and codebooks whose mean is NaN, are none of most laws' business."""
    found = covered(trial_under(profile, **candidate), BRIEF, [*LAWS.values()])
    assert found.missing == ()
    assert "right padding × huge × float32 × mean" in found.counts
    assert "everything ignored × huge × float32 × mean" not in found.counts
    assert "everything ignored × normal × float32 × mean" in found.counts


def test_complete_profiles_are_those_that_say_so() -> None:
    assert {name: effort.complete for name, effort in EFFORTS.items()} == {
        "brief": False,
        "quick": False,
        "ci": True,
        "deep": True,
    }


def without(law: Law[Any, Any], field: str, value: object) -> Law[Any, Any]:
    """A law that is never asked about recipes with one value of one field, as if no generator had that choice."""

    def adapt(recipe: Any) -> Any:
        focused = law.adapt(recipe)
        return None if focused is None or getattr(focused, field) == value else focused

    return replace(law, adapt=adapt)


def test_a_removed_choice_is_missing_and_named() -> None:
    trial = trial_under("hf.causal_lm")
    laws = counting([*LAWS.values()])
    for law in laws:
        ask(without(law, "count", Count.GLOBAL) if law.id.startswith("STABLE") else law, trial, BRIEF, 0)
    found = coverage(laws, trial, complete=True)
    assert found.missing
    assert all(cell.endswith("larger count given") for cell in found.missing)
    assert {cell.split(" × ")[1] for cell in found.missing} == {
        *("huge", "minus_inf", "nan_valid", "target_minus_inf", "plus_inf")
    }


def test_a_choice_that_the_space_lacks_is_not_demanded() -> None:
    trial = trial_under("hf.causal_lm")
    masks = tuple(masks for masks in trial.space["masks"] if Mask.LEFT not in masks)
    trial.space = cast(Space, {**trial.space, "masks": masks})
    # The hand-made cases are out of the space, and show that what is judged all the same is counted.
    found = covered(trial, BRIEF, counting([LAWS["STABLE-4"], LAWS["STABLE-1"]]))
    assert found.missing == ()
    assert "prompt ignored × huge × float32 × mean" in found.counts


def test_only_laws_that_decide_demand() -> None:
    found = covered(trial_under("torchtune"), BRIEF, counting([*LAWS.values()]))
    assert not any("nan_ignored" in cell for cell in found.counts)
    assert any("nan_ignored" in cell for cell in found.advisory)
    assert found.advisory["one position × normal × float32 × mean"] > 0
    assert [*gaps(LAWS["STABLE-4"], trial_under("torchtune"))] == []


def test_a_cell_is_tried_a_few_times_and_then_left() -> None:
    law = replace(LAWS["STABLE-1"], check=lambda trial, recipe: NOT_APPLICABLE)
    trial = trial_under("torch.cross_entropy")
    tried = [*gaps(law, trial)]
    assert {recipe.regime for recipe in tried} == {Regime.HUGE}
    assert len(tried) <= 8 * len({cell for recipe in tried for cell in trial.cell_counts.sort(recipe)})
    for recipe in gaps(law, trial):
        trial.cell_counts.note(law.id, recipe, decides=True)
    assert [*gaps(law, trial)] == []
    assert trial.cell_counts.by_law[law.id].total() > 0


def test_a_filtered_run_tells_and_does_not_fail() -> None:
    trial = trial_under("torchtune")
    result = ask(LAWS["ALIGN-1"], trial, BRIEF, 0)
    found = coverage([*LAWS.values()], trial, complete=True)
    assert found.due_after == len(LAWS)
    assert any("sharp" in cell for cell in found.missing)
    assert "right padding × calm × float32 × mean" not in found.missing
    assert found.due(asked=1) == ()
    assert overall((result,), found) is Overall.CONFORMS


def test_a_failing_candidate_demands_the_same() -> None:
    """Cells are demanded of a run whatever the candidate answers."""
    right, wrong = trial_under("torch.cross_entropy"), trial_under("torch.cross_entropy")
    wrong.failed.add("CONTRACT-1")
    demanded = covered(right, BRIEF, [*LAWS.values()]).counts.keys()
    asked_nothing = covered(wrong, BRIEF, [*LAWS.values()])
    assert asked_nothing.hit == 0
    assert asked_nothing.counts.keys() == demanded


PASSING = tuple(LawResult(f"LAW-{n}", "t", Level.MUST, Verdict.PASS, cases=1) for n in (1, 2))


@pytest.mark.parametrize(
    ("counts", "due_after", "said"),
    [
        ({"a": 1, "b": 2}, 2, Overall.CONFORMS),
        ({"a": 1, "b": 0}, 2, Overall.INCONCLUSIVE),
        ({"a": 1, "b": 0}, 3, Overall.CONFORMS),
        ({"a": 1, "b": 0}, None, Overall.CONFORMS),
    ],
)
def test_a_lack_is_inconclusive_once_all_has_been_asked(
    counts: dict[str, int], due_after: int | None, said: Overall
) -> None:
    found = Coverage(counts, due_after=due_after)
    assert overall(PASSING, found) is said
    assert (found.demanded, found.hit) == (2, sum(map(bool, counts.values())))
