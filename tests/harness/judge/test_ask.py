"""Asking one law: what is drawn, when it stops, what is shrunk, and what is said in the end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from weakref import ref

import pytest

from shiftproof.harness.candidates.arguments import Binding
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.cases.draw import drawn_by_hypothesis
from shiftproof.harness.cases.recipe import Mask, Recipe, Regime, digest
from shiftproof.harness.cases.space import hand_made, placed, recipes, redraws
from shiftproof.harness.judge.ask import ask, judge_or_redraw, planned
from shiftproof.harness.judge.pool import Pool
from shiftproof.harness.judge.profile import PROFILES, Profile
from shiftproof.harness.judge.store import load
from shiftproof.harness.laws.base import PASS, Judgement, Law, failing
from shiftproof.harness.results import Level, Verdict
from shiftproof.reference.profiles import PROFILES as SPECS

QUICK = replace(PROFILES["quick"], varies_sizes=False)
SKIPPED = Judgement(Verdict.SKIP)
VACUOUS = Judgement(Verdict.VACUOUS, "zero")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trial() -> Trial:
    """A trial whose candidate nobody calls: the laws here judge recipes."""
    binding = Binding({"logits": "logits", "labels": "labels"}, frozenset())
    caller = cast(Any, None)
    spec = SPECS["hf.causal_lm"]
    return Trial(Candidate("text", "m:f"), spec, binding, caller, dtypes=("float32",), device="cpu")


def law_of(check: Callable[[Recipe], Judgement], **rest: Any) -> Law:
    fields: dict[str, Any] = {"id": "TEST-1", "title": "t", "level": Level.MUST, "source": "s", "budget": 60, **rest}
    return Law(check=lambda trial, recipe: check(recipe), **fields)


class Asked:
    """A check that notes what it was asked."""

    def __init__(self, answer: Callable[[Recipe], Judgement] = lambda recipe: PASS) -> None:
        self.recipes: list[Recipe] = []
        self.answer = answer

    def __call__(self, recipe: Recipe) -> Judgement:
        self.recipes.append(recipe)
        return self.answer(recipe)


def test_a_law_that_holds(trial: Trial) -> None:
    check, ticks = Asked(), []
    result = ask(law_of(check), trial, QUICK, 0, lambda: ticks.append(1))
    assert (result.verdict, result.cases, result.vacuous, result.message) == (Verdict.PASS, 60, 0, "")
    assert result.counterexample is None
    assert len(ticks) == 60
    assert len(set(check.recipes)) == len(check.recipes) == 60
    assert check.recipes[: len(hand_made(trial.space))] == hand_made(trial.space)
    assert trial.failed == set()


@pytest.mark.parametrize(("profile", "cases"), [("quick", 60), ("ci", 120), ("deep", 1200)])
def test_a_profile_says_how_many(trial: Trial, profile: str, cases: int) -> None:
    law = law_of(lambda recipe: PASS)
    assert (
        ask(law, trial, replace(PROFILES[profile], varies_sizes=False), 0).cases
        == planned(law, PROFILES[profile])
        == cases
    )


def test_only_the_repeatable_profile_has_a_seed_of_its_own() -> None:
    assert {name: profile.seed for name, profile in PROFILES.items()} == {
        "brief": None,
        "quick": None,
        "ci": 0,
        "deep": None,
    }


def test_a_seed_fixes_the_recipes(trial: Trial) -> None:
    def drawn(seed: int, id: str = "TEST-1") -> list[Recipe]:
        check = Asked()
        ask(law_of(check, id=id), trial, QUICK, seed)
        return check.recipes

    assert drawn(3) == drawn(3)
    by_hand = set(hand_made(trial.space))
    assert len((set(drawn(3)) & set(drawn(4))) - by_hand) <= 2  # the simplest of all may come again
    assert set(drawn(3)) != set(drawn(3, "TEST-2"))  # every law has cases of its own


def test_hypothesis_draws_the_same_for_the_same_seed(trial: Trial) -> None:
    assert drawn_by_hypothesis(recipes(trial.space), 20, 5) == drawn_by_hypothesis(recipes(trial.space), 20, 5)
    assert drawn_by_hypothesis(recipes(trial.space), 20, 5) != drawn_by_hypothesis(recipes(trial.space), 20, 6)


def test_a_third_of_the_budget_comes_from_hypothesis(trial: Trial) -> None:
    check = Asked()
    law = law_of(check)
    ask(law, trial, QUICK, 3)
    made = hand_made(trial.space)
    drawn = drawn_by_hypothesis(recipes(trial.space), law.budget // 3, int(digest("pool", "3"), 16))
    fresh = list(dict.fromkeys(recipe for recipe in drawn if recipe not in made))
    assert len(fresh) > 10
    assert check.recipes[len(made) :][: len(fresh)] == fresh


def test_a_law_is_judged_beyond_the_ordinary_sizes_as_far_as_its_budget_reaches(trial: Trial) -> None:
    none, few, many = Asked(), Asked(), Asked()
    ask(law_of(none), trial, QUICK, 0)
    ask(law_of(few, id="TEST-2", budget=8), trial, PROFILES["quick"], 0)
    ask(law_of(many, id="TEST-3", budget=130), trial, PROFILES["quick"], 0)
    assert max(recipe.length for recipe in none.recipes) <= 17
    assert 17 < max(recipe.length for recipe in few.recipes) <= 513
    assert max(recipe.length for recipe in many.recipes) > 8000
    assert max(recipe.classes for recipe in many.recipes) >= 128000
    batches = [recipe for recipe in many.recipes if 2 <= recipe.rows <= 8]
    assert max(recipe.length for recipe in batches) > 1000


def test_a_trial_without_room_for_them_gets_ordinary_sizes(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "most_places", 0)
    check = Asked()
    ask(law_of(check, id="TEST-4", budget=130), trial, PROFILES["quick"], 0)
    assert max(recipe.length for recipe in check.recipes) <= 17


def test_a_slow_candidate_is_not_asked_at_sizes_that_its_code_does_not_ask_for(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss may be right and loop over rows. Where its own code takes another way, it is asked all the same."""
    (region,) = placed(trial.space, [{"rows": 2, "length": 700, "classes": 3}], 0)
    monkeypatch.setattr(trial, "regions", (region,))
    monkeypatch.setattr(trial, "_pace", (20_000, 1.0))  # a second for a small case
    check = Asked()
    found = ask(law_of(check, id="TEST-5", budget=130), trial, PROFILES["quick"], 0)
    assert "cases at larger sizes were left out: each call would take half a second or more" in found.message
    every = Asked()
    complete = replace(PROFILES["quick"], complete=True)
    ask(law_of(every, id="TEST-6", budget=130), trial, complete, 0)
    assert max(recipe.length for recipe in every.recipes) > 8000, "a complete run leaves nothing out"
    assert [recipe for recipe in check.recipes if recipe.rows * recipe.length > 200] == [region]


def test_the_largest_call_so_far_tells_how_long_others_take(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (Recipe(rows=2, length=length, classes=3) for length in (5, 2000))
    assert not trial.takes_long(large)
    monkeypatch.setattr(trial, "_pace", (1_000, 0.01))
    assert trial.takes_long(large)
    assert not trial.takes_long(small)


def test_every_case_is_in_focus(trial: Trial) -> None:
    check = Asked()
    ask(law_of(check, adapt=lambda recipe: replace(recipe, regime=Regime.HUGE)), trial, QUICK, 0)
    assert {recipe.regime for recipe in check.recipes} == {Regime.HUGE}


def test_a_focus_that_fits_nothing_ends_and_is_a_skip(trial: Trial) -> None:
    result = ask(law_of(lambda recipe: PASS, adapt=lambda recipe: None), trial, QUICK, 0)
    assert (result.verdict, result.cases) == (Verdict.SKIP, 0)
    assert result.message


def test_a_narrowed_space_is_drawn_from(trial: Trial) -> None:
    check = Asked()
    ask(law_of(check, restrict=lambda space: {**space, "rows": (2,), "length": (5,)}), trial, QUICK, 0)
    drawn = check.recipes[len(hand_made(trial.space)) :]
    assert {(recipe.rows, recipe.length) for recipe in drawn} == {(2, 5)}


def test_an_excuse_is_told_and_nothing_asked(trial: Trial) -> None:
    check = Asked()
    law = law_of(check, skip_reason=lambda trial: "it has no gradient")
    result = ask(law, trial, QUICK, 0)
    assert (result.verdict, result.message, check.recipes) == (Verdict.SKIP, "it has no gradient", [])


def test_skipped_cases_are_not_counted(trial: Trial) -> None:
    result = ask(law_of(lambda recipe: SKIPPED if recipe.rows > 1 else PASS), trial, QUICK, 0)
    assert result.verdict is Verdict.PASS
    assert 0 < result.cases < 60


def test_vacuous_cases_prove_nothing(trial: Trial) -> None:
    result = ask(law_of(lambda recipe: VACUOUS if recipe.rows == 1 else PASS), trial, QUICK, 0)
    assert result.verdict is Verdict.PASS
    assert result.vacuous > 0
    assert result.cases + result.vacuous == 60
    nothing = ask(law_of(lambda recipe: VACUOUS), trial, QUICK, 0)
    assert (nothing.verdict, nothing.cases, nothing.vacuous) == (Verdict.VACUOUS, 0, 60)


def is_redrawn(recipe: Recipe) -> bool:
    """No seed of the space is as large as any that is drawn again."""
    return recipe.seed >= 1000


def test_a_trial_is_gone_once_nobody_holds_it() -> None:
    """It holds everything that its candidate has answered."""
    binding = Binding({"logits": "logits", "labels": "labels"}, frozenset())
    spec = SPECS["hf.causal_lm"]
    held = Trial(Candidate("text", "m:f"), spec, binding, cast(Any, None), dtypes=("float32",), device="cpu")
    ask(law_of(lambda recipe: PASS), held, QUICK, 0)
    watched = ref(held)
    del held
    gc.collect()
    assert watched() is None


def test_a_law_whose_only_cases_are_vacuous_ones_of_others_is_vacuous(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = law_of(lambda recipe: VACUOUS)
    monkeypatch.setattr(Pool, "is_others", lambda self, law, recipe: True)
    result = ask(law, trial, QUICK, 0)
    assert (result.verdict, result.cases, result.vacuous) == (Verdict.VACUOUS, 0, 0)


def test_a_vacuous_case_is_drawn_again_until_one_proves_something(trial: Trial) -> None:
    recipe = Recipe(2, 4, 7, seed=5)
    check = Asked(lambda recipe: PASS if recipe.seed >= 2005 else VACUOUS)
    again, judgement = judge_or_redraw(law_of(check), trial, recipe)
    assert judgement is PASS
    assert again == check.recipes[2] == replace(recipe, seed=2005)
    assert check.recipes == [recipe, *redraws(recipe, trial.space)][:3]
    assert judge_or_redraw(law_of(check), trial, recipe) == (again, judgement)


def test_what_proves_something_at_once_is_judged_once(trial: Trial) -> None:
    for first in (PASS, SKIPPED, failing("x"), Judgement(Verdict.ERROR, "raised"), Judgement(Verdict.CRASH, "died")):
        check = Asked(lambda recipe, first=first: first)
        assert judge_or_redraw(law_of(check), trial, Recipe()) == (Recipe(), first)
        assert check.recipes == [Recipe()]


def test_drawing_again_ends_and_leaves_the_case_vacuous(trial: Trial) -> None:
    check = Asked(lambda recipe: VACUOUS)
    assert judge_or_redraw(law_of(check), trial, Recipe()) == (Recipe(), VACUOUS)
    assert check.recipes == [Recipe(), *redraws(Recipe(), trial.space)]


def test_a_redraw_that_the_law_does_not_speak_of_stands_for_nothing(trial: Trial) -> None:
    check = Asked(lambda recipe: SKIPPED if is_redrawn(recipe) else VACUOUS)
    assert judge_or_redraw(law_of(check), trial, Recipe()) == (Recipe(), VACUOUS)


def test_redraws_are_in_focus_and_of_the_narrowed_space(trial: Trial) -> None:
    check = Asked(lambda recipe: VACUOUS)
    judge_or_redraw(
        law_of(check, adapt=lambda recipe: replace(recipe, regime=Regime.HUGE)), trial, Recipe(regime=Regime.HUGE)
    )
    assert {recipe.regime for recipe in check.recipes} == {Regime.HUGE}
    check = Asked(lambda recipe: VACUOUS)
    judge_or_redraw(
        law_of(check, restrict=lambda space: {**space, "regime": (Regime.NORMAL, Regime.SHARP)}), trial, Recipe()
    )
    assert {recipe.regime for recipe in check.recipes} == {Regime.NORMAL, Regime.SHARP}


def test_a_case_that_is_drawn_again_counts_once(trial: Trial) -> None:
    ticks: list[int] = []
    check = Asked(lambda recipe: PASS if is_redrawn(recipe) or recipe.rows > 1 else VACUOUS)
    result = ask(law_of(check), trial, QUICK, 0, lambda: ticks.append(1))
    assert (result.verdict, result.cases, result.vacuous, len(ticks)) == (Verdict.PASS, 60, 0, 60)
    assert len(set(check.recipes)) == len(check.recipes) > 60  # none is judged twice
    again = Asked(check.answer)
    ask(law_of(again), trial, QUICK, 0)
    assert again.recipes == check.recipes


def test_a_failure_of_a_redrawn_case_is_what_is_stored_and_replayed(trial: Trial) -> None:
    def check(recipe: Recipe) -> Judgement:
        return failing("only on other numbers") if is_redrawn(recipe) else VACUOUS

    law = law_of(check)
    result = ask(law, trial, QUICK, 0)
    assert (result.verdict, result.message) == (Verdict.FAIL, "only on other numbers")
    assert result.counterexample is not None
    stored = load(result.counterexample.replay)
    assert is_redrawn(stored.recipe)
    assert stored.recipe.to_json() == result.counterexample.recipe
    assert law.check(trial, stored.recipe).verdict is Verdict.FAIL


def test_a_failure_is_shrunk_stored_and_remembered(trial: Trial) -> None:
    def check(recipe: Recipe) -> Judgement:
        bad = recipe.length >= 4 and recipe.rows >= 2 and recipe.classes >= 7
        return failing(f"at {recipe.rows}×{recipe.length}", "moved: +1") if bad else PASS

    result = ask(law_of(check), trial, QUICK, 0)
    assert (result.verdict, result.message) == (Verdict.FAIL, "at 2×4")
    assert trial.failed == {"TEST-1"}
    assert result.counterexample is not None
    recipe = Recipe.from_json(result.counterexample.recipe)
    assert recipe == Recipe(rows=2, length=4, classes=7, regime=Regime.CALM)
    stored = load(result.counterexample.replay)
    assert (stored.recipe, stored.law, stored.spec) == (recipe, "TEST-1", "hf.causal_lm")
    assert (stored.features, stored.message) == (("moved: +1",), "at 2×4")


def test_a_failure_stays_the_same_failure_while_it_shrinks(trial: Trial) -> None:
    """A double shift at T=3 is, at T=2, merely a missing pair."""

    def check(recipe: Recipe) -> Judgement:
        return failing("moved", "moved: +1", "missing") if recipe.length >= 3 else failing("lost", "missing")

    result = ask(law_of(check), trial, QUICK, 0)
    assert result.message == "moved"
    assert result.counterexample is not None
    assert (result.counterexample.recipe["rows"], result.counterexample.recipe["length"]) == (1, 3)


def test_a_shrunk_case_is_still_in_focus(trial: Trial) -> None:
    law = law_of(lambda recipe: failing("x"), adapt=lambda recipe: replace(recipe, rows=max(recipe.rows, 3)))
    result = ask(law, trial, QUICK, 0)
    assert result.counterexample is not None
    assert result.counterexample.recipe["rows"] == 3


def test_not_all_cases_are_judged_once_enough_fail(trial: Trial) -> None:
    assert ask(law_of(lambda recipe: failing("x"), budget=130), trial, QUICK, 0).cases == 6


def test_a_rare_failure_is_looked_at_a_while_longer(trial: Trial) -> None:
    rare = hand_made(trial.space)[0]
    result = ask(law_of(lambda recipe: failing("x") if recipe == rare else PASS, budget=130), trial, QUICK, 0)
    assert (result.verdict, result.cases) == (Verdict.FAIL, 41)


@pytest.mark.parametrize("verdict", [Verdict.CRASH, Verdict.TIMEOUT])
def test_what_costs_a_process_or_a_deadline_is_asked_rarely(trial: Trial, verdict: Verdict) -> None:
    check = Asked(lambda recipe: Judgement(verdict, "slow", frozenset({"slow"})))
    result = ask(law_of(check), trial, QUICK, 0)
    assert (result.verdict, result.cases) == (verdict, 1)
    assert len(check.recipes) <= 61


@pytest.mark.parametrize("verdict", [Verdict.CRASH, Verdict.TIMEOUT])
def test_a_crash_and_a_hang_shrink_though_most_simpler_cases_are_well(trial: Trial, verdict: Verdict) -> None:
    def check(recipe: Recipe) -> Judgement:
        bad = recipe.rows >= 2 and recipe.masks != (Mask.NONE,)
        return Judgement(verdict, "slow", frozenset({"slow"})) if bad else PASS

    result = ask(law_of(check), trial, QUICK, 0)
    assert result.verdict is verdict
    assert result.counterexample is not None
    recipe = Recipe.from_json(result.counterexample.recipe)
    assert (recipe.rows, recipe.length, recipe.classes, len(recipe.masks)) == (2, 1, 2, 1)


def unjudged(message: str = "could not be judged") -> Judgement:
    return Judgement(Verdict.UNJUDGED, message, frozenset({"not answered"}))


def test_a_case_that_could_not_be_asked_ends_the_law(trial: Trial) -> None:
    check = Asked(lambda recipe: unjudged() if len(check.recipes) > 3 else PASS)
    result = ask(law_of(check), trial, QUICK, 0)
    assert (result.verdict, result.message, result.cases) == (Verdict.UNJUDGED, "could not be judged", 3)
    assert result.counterexample is None
    assert len(check.recipes) == 4
    assert trial.unjudged == {"TEST-1": "could not be judged"}
    assert trial.failed == set()


def test_a_redraw_that_could_not_be_asked_ends_the_law_too(trial: Trial) -> None:
    result = ask(law_of(lambda recipe: unjudged() if is_redrawn(recipe) else VACUOUS), trial, QUICK, 0)
    assert result.verdict is Verdict.UNJUDGED


def test_a_failure_that_came_before_is_not_lost(trial: Trial) -> None:
    first = hand_made(trial.space)[0]
    result = ask(law_of(lambda recipe: failing("x") if recipe == first else unjudged()), trial, QUICK, 0)
    assert (result.verdict, result.message, result.cases) == (Verdict.FAIL, "x", 1)
    assert trial.unjudged == {}


def test_after_three_laws_that_could_not_be_asked_none_is(trial: Trial) -> None:
    asked = Asked(lambda recipe: unjudged(f"stuck {len(asked.recipes)}"))
    results = [ask(law_of(asked, id=f"TEST-{number}"), trial, QUICK, 0) for number in range(1, 6)]
    assert [result.verdict for result in results] == [Verdict.UNJUDGED] * 5
    assert len(asked.recipes) == 3
    assert results[2].message == "stuck 3"
    assert results[4].message == "was not asked, because TEST-1 and others could not be judged: stuck 1"


def test_a_law_with_an_excuse_is_skipped_all_the_same(trial: Trial) -> None:
    trial.unjudged.update(dict.fromkeys(("A-1", "A-2", "A-3"), "stuck"))
    result = ask(law_of(lambda recipe: PASS, skip_reason=lambda trial: "it has no gradient"), trial, QUICK, 0)
    assert result.verdict is Verdict.SKIP


def test_what_follows_from_another_failure_is_asked_briefly_and_not_shrunk(trial: Trial) -> None:
    trial.failed.add("ALIGN-1")
    check = Asked(lambda recipe: failing("x"))
    result = ask(law_of(check, depends_on=("CONTRACT-1", "ALIGN-1")), trial, QUICK, 0)
    assert (result.verdict, result.cases, result.follows) == (Verdict.FAIL, 1, "ALIGN-1")
    assert check.recipes == hand_made(trial.space)[:1]


def test_what_holds_in_spite_of_another_failure_is_asked_only_the_hand_made_cases(trial: Trial) -> None:
    trial.failed.add("ALIGN-1")
    result = ask(law_of(lambda recipe: PASS, depends_on=("ALIGN-1",)), trial, QUICK, 0)
    assert (result.verdict, result.cases, result.follows) == (Verdict.PASS, len(hand_made(trial.space)), None)


@pytest.mark.parametrize(
    ("failed", "depends_on", "skipped"),
    [
        ("CONTRACT-1", (), True),
        ("CONTRACT-1", ("ALIGN-1",), True),
        ("CONTRACT-2", ("CONTRACT-2",), True),
        ("CONTRACT-2", ("CONTRACT-1",), False),
    ],
)
def test_without_the_bare_contract_nothing_is_asked(
    trial: Trial, failed: str, depends_on: tuple[str, ...], skipped: bool
) -> None:
    trial.failed.add(failed)
    result = ask(law_of(lambda recipe: PASS, depends_on=depends_on), trial, QUICK, 0)
    assert (result.verdict is Verdict.SKIP) is skipped
    assert (failed in result.message) is skipped


def test_a_profile_of_another_size(trial: Trial) -> None:
    assert ask(law_of(lambda recipe: PASS), trial, Profile("half", 0.5), 0).cases == 30


# --- what is refused, and what is declared away -----------------------------------------------------------------------


def refuses(recipe: Recipe) -> Judgement:
    return Judgement(Verdict.REFUSED, "too many rows") if recipe.rows > 1 else PASS


def allow(trial: Trial, **what: str) -> None:
    trial.candidate = replace(trial.candidate, allow=({"reason": "one block", **what},))


def test_a_case_that_is_refused_was_not_judged(trial: Trial) -> None:
    result = ask(law_of(refuses), trial, QUICK, 0)
    assert result.verdict is Verdict.REFUSED
    assert result.refused > 1
    assert 0 < result.cases == 60 - result.refused
    assert result.message == f"refused {result.refused} cases: too many rows"
    assert result.refusals
    assert trial.failed == set()


def test_a_failure_outweighs_a_refusal(trial: Trial) -> None:
    result = ask(law_of(lambda recipe: refuses(recipe) if recipe.rows > 1 else failing("x")), trial, QUICK, 0)
    assert result.verdict is Verdict.FAIL


def test_a_refusal_that_is_declared_is_told_and_passes(trial: Trial) -> None:
    allow(trial, refuses="many rows")
    result = ask(law_of(refuses), trial, QUICK, 0)
    assert (result.verdict, result.refused) == (Verdict.PASS, 0)
    assert result.message == "some cases are refused, as declared: refusals with the message 'many rows' (one block)"
    nothing = ask(law_of(lambda recipe: Judgement(Verdict.REFUSED, "too many rows")), trial, QUICK, 0)
    assert (nothing.verdict, nothing.message) == (Verdict.SKIP, result.message)


def test_a_refusal_that_says_something_else_is_not_declared(trial: Trial) -> None:
    allow(trial, refuses="many columns")
    assert ask(law_of(refuses), trial, QUICK, 0).verdict is Verdict.REFUSED
    allow(trial, law="TEST-2")
    assert ask(law_of(refuses), trial, QUICK, 0).verdict is Verdict.REFUSED


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.ERROR, Verdict.CRASH, Verdict.REFUSED, Verdict.VACUOUS])
def test_a_law_that_is_declared_away_is_allowed_not_to_hold(trial: Trial, verdict: Verdict) -> None:
    allow(trial, law="TEST-1")
    result = ask(law_of(lambda recipe: Judgement(verdict, "no")), trial, QUICK, 0)
    assert result.verdict is Verdict.ALLOWED
    assert result.message.endswith("; allowed: one block")
    assert trial.failed == set()


def test_a_law_that_is_declared_away_and_holds_passes(trial: Trial) -> None:
    allow(trial, law="TEST-1")
    assert ask(law_of(lambda recipe: PASS), trial, QUICK, 0).verdict is Verdict.PASS


def test_what_could_not_be_asked_is_not_allowed(trial: Trial) -> None:
    allow(trial, law="TEST-1")
    assert ask(law_of(lambda recipe: unjudged()), trial, QUICK, 0).verdict is Verdict.UNJUDGED


def test_no_other_law_is_declared_away(trial: Trial) -> None:
    allow(trial, law="TEST-1")
    result = ask(law_of(lambda recipe: failing("x"), id="TEST-2"), trial, QUICK, 0)
    assert (result.verdict, result.message) == (Verdict.FAIL, "x")
    assert trial.failed == {"TEST-2"}
