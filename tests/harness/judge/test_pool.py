"""The cases that the laws of a trial share: called once, enough for each law, and the same from a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.cases.recipe import Recipe, Regime, Stride
from shiftproof.harness.judge.pool import Pool
from shiftproof.harness.judge.profile import PROFILES, Profile
from shiftproof.harness.kill_table.trial import Bench
from shiftproof.harness.laws import LAWS, Law, adapt_to
from shiftproof.harness.results import Level
from shiftproof.reference.profiles import PROFILES as SPECS

QUICK = PROFILES["quick"]


@pytest.fixture(scope="module", params=["hf.causal_lm", "csm"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(SPECS[request.param], "float32", QUICK)


@pytest.fixture(scope="module")
def pool(bench: Bench) -> Pool:
    return Pool(LAWS, bench.right, QUICK, 0)


def asked(bench: Bench) -> list[Law]:
    return [law for law in LAWS.values() if law.skip_reason(bench.right) is None]


def test_no_law_has_fewer_cases_than_its_budget(bench: Bench, pool: Pool) -> None:
    short = {law.id: (len(pool.of(law)), law.budget) for law in asked(bench) if len(pool.of(law)) < 0.9 * law.budget}
    # The focus of these maps many recipes to few cases.
    assert set(short) <= {"EDGE-1", "EDGE-2", "EMPTY-1", "EMPTY-2", "EMPTY-3"}


def test_a_law_that_calls_again_keeps_to_its_budget(bench: Bench) -> None:
    pool = Pool(LAWS, bench.right, replace(QUICK, varies_sizes=False), 0)
    assert {law.id for law in asked(bench) if law.calls_again and len(pool.of(law)) > law.budget} == set()


def test_every_case_of_a_law_is_in_its_focus(bench: Bench, pool: Pool) -> None:
    for law in asked(bench):
        assert [recipe for recipe in pool.of(law) if adapt_to(law, bench.right, recipe) != recipe] == [], law.id


def test_cases_are_shared(bench: Bench, pool: Pool) -> None:
    laws = [law for law in asked(bench) if not law.calls_again]
    counts = Counter(recipe for law in laws for recipe in pool.of(law))
    assert counts.total() > 2.5 * len(counts)


def test_what_is_special_to_one_law_is_not_asked_by_others(bench: Bench, pool: Pool) -> None:
    """A loss may refuse other layouts and index dtypes, and what NaN does is the matter of laws of its own."""
    for id in ("CONTRACT-1", "VALUE-1", "PURE-1"):
        for recipe in pool.of(LAWS[id]):
            assert recipe.stride is Stride.CONTIGUOUS
            assert recipe.label_dtype == "int64"
            assert recipe.regime not in (Regime.NAN_VALID, Regime.NAN_IGNORED, Regime.MINUS_INF)
            assert recipe.rows > 0
            assert recipe.length > 1


def test_each_regime_of_the_value_keeps_its_share(bench: Bench, pool: Pool) -> None:
    counts = Counter(recipe.regime for recipe in pool.of(LAWS["VALUE-1"]))
    assert set(counts) == {Regime.NORMAL, Regime.SHARP, Regime.TIES}
    assert min(counts.values()) >= 25


def test_a_case_of_others_is_told_from_its_own(bench: Bench) -> None:
    pool = Pool(LAWS, bench.right, replace(QUICK, varies_sizes=False), 0)
    law = LAWS["CONTRACT-1"]
    own = [recipe for recipe in pool.of(law) if not pool.is_others(law, recipe)]
    assert 0 < len(own) < len(pool.of(law))
    assert pool.of(law)[: len(own)] == own
    assert pool.of(law, by_hand=True) == own[: len(pool.of(law, by_hand=True))]


def test_a_seed_fixes_the_cases_and_another_draws_others(bench: Bench, pool: Pool) -> None:
    def cases(profile: Profile, seed: int) -> set[Recipe]:
        made = Pool(LAWS, bench.right, profile, seed)
        return {recipe for law in asked(bench) for recipe in made.of(law)}

    assert cases(QUICK, 0) == {recipe for law in asked(bench) for recipe in pool.of(law)}
    for profile in (QUICK, PROFILES["brief"]):
        one, other = cases(profile, 1), cases(profile, 2)
        assert len(one - other) > 0.1 * len(one), f"{profile.name} draws too"


def test_every_must_law_is_judged_beyond_the_ordinary_sizes(bench: Bench, pool: Pool) -> None:
    ordinary = Pool(LAWS, bench.right, replace(QUICK, varies_sizes=False), 0)
    for law in asked(bench):
        more = {*pool.of(law)} - {*ordinary.of(law)}
        if law.level is Level.MUST and law.id != "EMPTY-3":  # which is about rows of few labels
            assert max(recipe.length for recipe in more) > 100, law.id
            assert max(recipe.classes for recipe in more) > 1000, law.id
            assert max(recipe.rows for recipe in more) > 10, law.id
            assert not any(pool.is_others(law, recipe) for recipe in more), law.id


def test_a_brief_run_has_no_large_cases(bench: Bench, pool: Pool) -> None:
    brief = Pool(LAWS, bench.right, PROFILES["brief"], 0)
    for law in asked(bench):
        assert all(recipe.length < 4000 and recipe.classes < 40_000 for recipe in brief.of(law)), law.id
    assert any(recipe.size > 20_000 for recipe in pool.of(LAWS["VALUE-1"]))


def test_however_small_the_run_no_law_is_without_a_case(bench: Bench) -> None:
    tiny = Pool(LAWS, bench.right, Profile("tiny", 0.001), 0)
    assert {law.id for law in asked(bench) if not tiny.of(law) or not tiny.of(law, by_hand=True)} == set()


def test_however_small_the_run_a_law_is_asked_in_each_dtype(bench: Bench) -> None:
    of = bench.right
    trial = Trial(of.candidate, of.spec, of.binding, of.caller, dtypes=("float32", "bfloat16"), device="cpu")
    tiny = Pool(LAWS, trial, Profile("tiny", 0.001), 0)
    laws = [law for law in LAWS.values() if law.skip_reason(trial) is None]
    assert {law.id for law in laws if {recipe.dtype for recipe in tiny.of(law)} != {"float32", "bfloat16"}} == set()
    for law in laws:
        assert [recipe for recipe in tiny.of(law) if adapt_to(law, trial, recipe) != recipe] == [], law.id
